"""What `fit` chooses from: the rows of images, of a store, or of both, here or on several ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.kernels.ranks import Ranks
from patchcore_fast.model.batches import Batches, batches_of
from patchcore_fast.model.collect import FeatureRows, Rows
from patchcore_fast.model.fewshot import Augmentation, settle
from patchcore_fast.model.passes import Unread, check_read, training_rows
from patchcore_fast.model.room import check_fit
from patchcore_fast.model.selection import Selector
from patchcore_fast.model.shared import all_rows
from patchcore_fast.model.stored import StoredRows, describe, extract_into, fixed_settings, in_step, share_of, unread_of


class Training(NamedTuple):
    """rows : of all images, on all ranks.  views : of this rank's; see `passes.training_rows`.  images : their names.
    weights : fingerprint of the backbone's.  widths : columns of each layer.  unread : (file, why) of images left out.
    """

    rows: Rows
    views: list[FeatureRows]
    images: list[str]
    weights: str
    widths: tuple[int, ...]
    unread: Unread


@contextmanager
def together(name: str, group: Any) -> Iterator[Ranks | None]:
    """The ranks of a group, watched over; None without one."""
    if group is None:
        yield None
        return
    ranks = Ranks(name, group)
    with ranks.watched():
        yield ranks


def material(model: Any, data: Any, selector: Selector) -> Training:
    """What a `PatchCore` would choose from by a selector, of images: their rows, and those of the views it asks for.

    Errors as of `PatchCore.fit`.
    """
    _, augmentation = settle(model.config, None, None, model.sampler)
    with ExitStack() as opened:
        return Source(model.config, augmentation, model._built, None, model.progress).training(
            data, None, selector, "raise", opened
        )


class Source:
    """Where the rows of a fit come from.

    Parameters
    ----------
    config, augmentation : of this fit.  extractor : makes the backbone, where images are read.
    ranks : those that fit together, or None.
    widths : columns of each layer that the backbone gives, where it has been made; a store must have the same.
    """

    def __init__(
        self,
        config: PatchCoreConfig,
        augmentation: Augmentation,
        extractor: Callable[[], FeatureExtractor],
        ranks: Ranks | None = None,
        progress: bool | None = None,
        widths: tuple[int, ...] | None = None,
    ) -> None:
        """Compare the settings of the ranks."""
        self.config, self.augmentation, self.ranks = config, augmentation, ranks
        self.progress = False if ranks is not None and ranks.rank else progress
        self._extractor, self._widths = extractor, widths
        if ranks is not None:
            ranks.where = "features were being computed"
            values = config.to_dict()
            ranks.same(settings=json.dumps({name: values[name] for name in values if name != "running"}))
            self._refuse_learning("with ranks")
            if augmentation.name == "custom":
                raise ValueError("PatchCore.fit: copies that a transform makes go with one process, not with ranks")

    def training(
        self, data: Any, store: str | os.PathLike[str] | None, selector: Selector, on_error: str, opened: ExitStack
    ) -> Training:
        """Read, or compute, as `PatchCore.fit` says; what is opened here is closed with `opened`."""
        if isinstance(data, FeatureStore):
            self._refuse_learning("with a store")
            return self._from_store(data, selector)
        if store is not None:
            return self._from_store(opened.enter_context(self.extract(data, store, None, on_error)), selector)
        batches = batches_of(data, self.config, "train", self.config.selection.shots, on_error)
        if self.ranks is None:
            rows, views, unread, names = self._computed(batches, selector)
            extractor = self._extractor()
            return Training(rows, views, names, extractor.backbone.fingerprint(), extractor.widths, unread)
        ranks = self.ranks
        part = batches.part(*batches.share(ranks.rank, ranks.size))
        weights, widths = ranks.agree(self._facts)
        ranks.same(weights=weights)
        rows, views, unread, names = ranks.agree(lambda: self._computed(part, selector))
        told = ranks.tell((unread, names))
        unread, names = [pair for u, _ in told for pair in u], [name for _, n in told for name in n]
        whole = all_rows(rows, ranks)
        check_read(whole, unread)
        return Training(whole, views, names, weights, widths, unread)

    def extract(
        self, data: Any, store: str | os.PathLike[str], dtype: str | None = None, on_error: str = "raise"
    ) -> FeatureStore:
        """Write the features of images into a store, or what it lacks of them."""
        self._refuse_learning("with a store")
        batches = batches_of(data, self.config, "train", self.config.selection.shots, on_error)
        extractor = self._extractor()
        about = describe(self.config, batches, extractor, self.augmentation, dtype)
        device = extractor.backbone.mean.device
        return extract_into(store, about, batches, extractor, self.augmentation, device, self.ranks, self.progress)

    def _refuse_learning(self, where: str) -> None:
        learnt = self.config.features.fitted_reduction
        if learnt is not None:
            raise ValueError(f"PatchCore.fit: reduction={learnt!r} is learnt from all rows in one process, not {where}")

    def _computed(
        self, batches: Batches, selector: Selector
    ) -> tuple[FeatureRows, list[FeatureRows], Unread, list[str]]:
        if batches.count == 0 and self.ranks is not None:  # fewer images than ranks
            return FeatureRows(0), [FeatureRows(0) for _ in selector.views], [], []
        extractor = self._extractor()

        def check(rows: int, columns: int, itemsize: int) -> None:
            widths = self._apart(extractor.widths, columns)
            check_fit(selector.sampler, rows, widths, itemsize, views=len(selector.views))

        rows, views, unread = training_rows(
            batches.shown("features", self.progress), batches.count, extractor, extractor.backbone.mean.device,
            self.augmentation, tuple(selector.views.values()), check, selector.wants_embeddings,
        )  # fmt: skip
        if self.ranks is None:
            check_read(rows, unread)
        missing = {path for path, _ in unread}
        names = [batches.name(r.path) for r in batches.records or [] if r.path not in missing]
        return rows, views, unread, names

    def _from_store(self, store: FeatureStore, selector: Selector) -> Training:
        wanted, there = fixed_settings(self.config), fixed_settings(store.config)
        for group in wanted:
            for name, value in wanted[group].items():
                if value != there[group][name]:
                    more = f'; rows of metric="cosine" are of one kind: extract with banks={value!r}'
                    raise ValueError(
                        f"PatchCore.fit: the features in {store.name} are of {name} {there[group][name]!r}, "
                        f"the settings say {value!r}{more if name == 'banks' else ''}"
                    )
        if self._widths not in (None, store.widths):
            raise ValueError(
                f"PatchCore.fit: the features in {store.name} have {_by_layer(store.widths)} columns, the "
                f"backbone gives {_by_layer(self._widths or ())}"
            )
        selector.check_store(store)
        if selector.views:
            raise ValueError("PatchCore.fit: the sampler asks for changed images too, of which a store has no features")
        ranks, per_image = self.ranks, self.augmentation.per_image
        first, last = (0, len(store.grids)) if ranks is None else share_of(
            store.grids, per_image, ranks.rank, ranks.size)  # fmt: skip
        rows = StoredRows(store, first, last)
        widths, item = self._apart(store.widths, rows.columns), rows.dtype.itemsize
        in_step(ranks, lambda: check_fit(selector.sampler, rows.total, widths, item, stored=True))
        if ranks is not None:
            ranks.same(weights=store.about["weights"], rows=store.shape[0])
        weights = store.about["weights"]
        return Training(all_rows(rows, ranks), [], store.images, weights, store.widths, unread_of(store))

    def _apart(self, widths: tuple[int, ...], columns: int) -> tuple[int, ...]:
        """Columns of what is selected from together: of each layer, or of whole rows."""
        return widths if self.config.selection.banks == "layer" else (columns,)

    def _facts(self) -> tuple[str, tuple[int, ...]]:
        extractor = self._extractor()
        return extractor.backbone.fingerprint(), extractor.widths


def _by_layer(widths: tuple[int, ...]) -> str:
    return " and ".join(map(str, widths))
