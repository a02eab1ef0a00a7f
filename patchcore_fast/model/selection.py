"""The step of `fit` that a sampler does: which rows become the bank, and the same again for held-out images."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.budget import percentage_of
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.model.collect import FeatureRows, Rows, Sizes
from patchcore_fast.model.picks import Selection, covering_radius, restored, signals_of
from patchcore_fast.model.pixels import HeldOut
from patchcore_fast.model.pricing import support_of
from patchcore_fast.model.score import image_scores
from patchcore_fast.model.shared import all_rows
from patchcore_fast.model.sizing import Sizing
from patchcore_fast.model.threshold import held_out_folds
from patchcore_fast.model.views import views_of
from patchcore_fast.samplers import PrecomputedSampler, describe_sampler, sampler_of
from patchcore_fast.samplers.named import NAMED
from patchcore_fast.samplers.parts import Parts
from patchcore_fast.samplers.space import space_of

logger = logging.getLogger(__name__)


class Selector:
    """The sampler of a fit: one that was given, or the config's, on a device."""

    def __init__(self, config: PatchCoreConfig, sampler: Any, device: torch.device, group: Any = None) -> None:
        """See `samplers.make_sampler`.

        ValueError: the settings are of a sampler that was given, and none is given; or a group of processes, and a
        sampler that selects in one. `samplers.PrecomputedSampler` with picks that say which sampler made them stands
        for that sampler: `select` gives these picks, and held-out images are selected for as the settings say.
        """
        self.picks: PrecomputedSampler | None = None
        if getattr(sampler, "recorded", None) is not None:
            self.picks, sampler = sampler, None
        if sampler is None:
            try:
                sampler = sampler_of(config.selection, device)  # with a budget or a count `settle` changes it
            except ValueError as error:
                if config.selection.sampler_parameters is None:
                    raise ValueError(f"PatchCore.fit: {error}") from None
                raise ValueError(
                    f"PatchCore.fit: {error}: give PatchCore(config, SAMPLER), or settings with sampler, ratio and "
                    "sampler_parameters=None"
                ) from None
        if group is not None and (lonely := _lonely(sampler)):
            able = [name for name, kind in NAMED.items() if kind.takes_group and name != "composite"]
            raise ValueError(
                f"PatchCore.fit: {lonely} selects in one process only: with several ranks take one of {', '.join(able)}"
            )
        self.config, self.device, self.sampler, self.group = config, device, sampler, group
        self.views = views_of(sampler)  # whose features it asks for too
        self.reports: list[dict[str, Any]] = []  # what the sampler said of each selection of all rows, in their order
        self.scores: dict[str, torch.Tensor] = {}  # signals that the sampler is handed, see `give`
        if self.picks is not None:
            self.give(signals_of(self.picks))
        self.sizing: Sizing | None = None  # of a budget, see `settle`
        self._of: Rows | None = None  # the rows that `_space` and `_matrix` are of
        self._space = FeatureRows(0)
        self._matrix: torch.Tensor | None = None

    def give(self, scores: Mapping[str, torch.Tensor]) -> None:
        """Signals of all rows, [N] each, that the sampler takes in place of its own, also where images are held out.

        ValueError: it takes none, or there is a group.
        """
        if scores and (self.group is not None or not getattr(self.sampler, "takes_scores", False)):
            what = "in one process only" if self.group is not None else "by what it measures itself"
            raise ValueError(f"scores: sampler {self.config.selection.sampler} selects {what}, and takes no signals")
        self.scores = dict(scores)

    @property
    def record(self) -> PatchCoreConfig:
        """The settings as a bank has them: a sampler that was handed signals stands there as an object that was given,
        for its settings alone do not make its picks."""
        if not self.scores:
            return self.config
        name, parameters = describe_sampler(self.sampler)
        parameters["scores"] = sorted(self.scores)
        return self.config.replace(
            sampler=name, sampler_parameters=parameters, sampler_options=(), ratio=None, budget=None, count=None
        )

    @property
    def wants_embeddings(self) -> bool:
        """Whether it asks for the global embeddings of images too."""
        return bool(getattr(self.sampler, "uses_embeddings", False) and getattr(self.sampler, "uses_positions", False))

    def settle(self, layers: Sequence[Rows], images: int) -> None:
        """Turn the budget or the count of the settings, if there is one, into what the sampler picks.

        layers : the rows of each layer that has a bank, or of all in one.  images : without their copies.

        Raises
        ------
        ValueError : a budget of less than one row.
        """
        if (count := self.config.selection.count) is not None:
            self.sampler.percentage = percentage_of(count, layers[0].total)
        if self.config.selection.budget is not None:
            rows = None if self.picks is None else self.picks.rows
            self.sizing = Sizing(self.config, layers, images, self.device, None if rows is None else len(rows))
            self.sampler.percentage = self.sizing.percentage

    def select(
        self, rows: Rows, views: Sequence[FeatureRows] = (), progress: Callable[[int, int], None] | None = None
    ) -> Selection:
        """Choose of all rows.

        Raises
        ------
        ValueError : fewer rows chosen than the score of a patch needs neighbours.
        """
        if self.picks is not None:
            found = restored(self.picks, self.sampler, rows)
            self._enough(found.indices, rows)
            return found
        # Of samplers that report nothing; of the process, for CUDA's peak may be somebody's who measures the whole fit.
        spent = Parts({}, torch.device("cpu"))
        with spent("projection"):
            space, matrix = self._seen(rows)
        with spent("selection"), _set(self.sampler, "progress", progress):
            indices = self._choose(self.sampler, all_rows(space, rows.ranks), views, self.scores)
        self._enough(indices, rows)
        count = self.config.selection.count
        if count is not None and len(indices) < count:
            logger.warning("count: %d rows are wanted, only %d of %d could be chosen", count, len(indices), rows.total)
        self.reports.append(copy.deepcopy(getattr(self.sampler, "report_", None) or spent.report))
        if matrix is not None:
            self.sampler.projection_ = matrix
        projection = getattr(self.sampler, "projection_", None)
        unsupported = getattr(self.sampler, "pruned_", {}).get("support")
        trusted = None
        if unsupported is not None:
            doubted = rows.positions(_of_all(unsupported, rows).nonzero()[:, 0])[:, 0].unique()
            trusted = torch.arange(len(rows.grids))
            trusted = trusted[~torch.isin(trusted, doubted)]
        projection = None if projection is None else projection.detach().float().cpu()
        return Selection(indices, projection, trusted, covering_radius(self.sampler))

    def check_store(self, store: FeatureStore) -> None:
        """DataError: the rows that were chosen before are of another store."""
        given = self.picks or self.sampler
        if isinstance(given, PrecomputedSampler) and given.picks is not None:
            given.picks.check_store(store, given.source)

    def _enough(self, indices: torch.Tensor, rows: Rows) -> None:
        """ValueError: too few for the score of a patch."""
        if len(indices) < self.config.search.least_rows:
            raise ValueError(
                f"PatchCore.fit: the coreset has {len(indices)} of {rows.total} patches, at least "
                f"{self.config.search.least_rows} wanted: give more images, a larger ratio or "
                "budget, or fewer neighbours"
            )

    def support(
        self, rows: Rows, indices: torch.Tensor, per_image: int = 1, without: torch.Tensor | None = None,
        every: int | None = None,
    ) -> torch.Tensor | None:  # fmt: skip
        """How far chosen rows [k] are from other images (`pricing.support_of`); None where no price is asked."""
        if self.config.search.price == 0:
            return None
        space, matrix = self._seen(rows)
        narrower = matrix is not None and matrix.shape[1] < rows.columns
        return support_of(rows, space if narrower else None, indices, self.device, per_image, without, every)

    def held_out_scores(
        self,
        rows: Rows,
        views: Sequence[FeatureRows] = (),
        images: torch.Tensor | None = None,
        per_image: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[float]:
        """Scores of training images as if they were new: each by a bank that was selected without it.

        A training image that the whole bank scores finds itself. Taking its own rows out of that bank is not enough:
        what remains was chosen with this image in view, and lacks what its rows stood for (docs/threshold.md).

        Parameters
        ----------
        rows, views : of all training images, each followed by its augmented copies: `per_image` grids an image.
        images : [J] numbers of those that may be asked, copies not counted; all when None or empty.
        progress : called with (images asked, images to ask).

        Returns
        -------
        Scores of images without their copies, at most `threshold.ASKED`. A fold that its sampler cannot choose from, or
        that leaves fewer rows than `neighbours`, gives none; nor does a single image.
        """
        return self.held_out_by_count(rows, views, images, per_image, progress)[-1].scores

    def held_out_by_count(
        self,
        rows: Rows,
        views: Sequence[FeatureRows] = (),
        images: torch.Tensor | None = None,
        per_image: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[HeldOut]:
        """What such images say by the first rows of each bank: for each of the sizing's counts, the last of all rows.

        Without a budget that last one alone; only it has maps. Arguments as of `held_out_scores`.
        """
        found = [HeldOut([], []) for _ in range(1 if self.sizing is None else len(self.sizing.counts))]
        with random_state_kept():
            for fold, chosen, support in self.held_out(rows, views, images, per_image, progress):
                bank, counts = rows.take(chosen), self.prefixes(rows, fold, per_image, len(chosen))
                for held, count in zip(found, counts, strict=True):
                    if count:
                        known = None if support is None else support[:count]
                        sizes = rows.sizes if held is found[-1] else None
                        held.extend(self._scores(rows, bank[:count], known, fold * per_image, sizes))
        return found

    def prefixes(self, rows: Rows, fold: torch.Tensor, per_image: int, chosen: int) -> list[int]:
        """Of the `chosen` rows without a fold's images those that the bank of each count of the sizing has.

        0 where they are fewer than `neighbours`.
        """
        counts = [chosen]
        if self.sizing is not None:
            sizes = rows.starts.diff()
            left = rows.total - int(sizes[(fold[:, None] * per_image + torch.arange(per_image)).view(-1)].sum())
            counts = [self.sizing.within(count, left, chosen) for count in self.sizing.counts]
        return [count if count >= self.config.search.least_rows else 0 for count in counts]

    def held_out(
        self,
        rows: Rows,
        views: Sequence[FeatureRows] = (),
        images: torch.Tensor | None = None,
        per_image: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Images [J] that are held out together, ascending, the rows [k] chosen of all others, and how far these are
        from further images without them, fold by fold.

        No rows where the sampler cannot choose, or chooses fewer than `neighbours`. Arguments as of `held_out_scores`.
        """
        count = len(rows.grids) // per_image
        if images is None or not len(images):
            images = torch.arange(count)
        plan = list(held_out_folds(images, count)) if count > 1 else []
        space, _ = self._seen(rows)
        done, total = 0, sum(map(len, plan))
        for fold in plan:
            fold = fold.sort().values
            chosen = self._without(rows, space, views, (fold[:, None] * per_image + torch.arange(per_image)).view(-1))
            if len(chosen) < self.config.search.least_rows:
                chosen = chosen[:0]
            yield fold, chosen, self.support(rows, chosen, per_image, fold)
            done += len(fold)
            if progress is not None:
                progress(done, total)

    def _seen(self, rows: Rows) -> tuple[FeatureRows, torch.Tensor | None]:
        """What the sampler looks at of this process's rows, made once; and the projection that it is made by."""
        if self._of is not rows:
            local = rows.local
            found, matrix = space_of(self.sampler, local.total, rows.columns, local.read)
            self._of, self._matrix = rows, matrix
            embeddings = local.embeddings() if self.wants_embeddings else None
            if self.wants_embeddings and embeddings is None and local.total:
                logger.warning("select: no embeddings of the images: an earlier version wrote the store without them")
            self._space = FeatureRows.of(local.features if found is None else found, local.grids, embeddings)
        return self._space, self._matrix

    def _without(
        self, rows: Rows, space: FeatureRows, views: Sequence[FeatureRows], members: torch.Tensor
    ) -> torch.Tensor:
        """Rows [k] chosen without those of some images [J]; none where that cannot be done.

        Rows that were given, and nobody knows by what, are given again, without those of these images.
        """
        if self.scores or isinstance(self.sampler, PrecomputedSampler):
            own = torch.zeros(rows.total, dtype=torch.bool)
            for low, high in zip(rows.starts[members].tolist(), rows.starts[members + 1].tolist(), strict=True):
                own[low:high] = True
            if isinstance(self.sampler, PrecomputedSampler):
                return self.sampler.without(own)
        scores = {name: values[~own] for name, values in self.scores.items()}
        sampler = copy.copy(self.sampler)  # what it found in all rows stays with the original
        if hasattr(sampler, "progress"):
            sampler.progress = None
        local = members - rows.first
        local = local[(local >= 0) & (local < len(space.grids))]
        with ExitStack() as stack:
            rest = stack.enter_context(space.set_aside(local))[0]
            others = [stack.enter_context(v.set_aside(local))[0] for v in views]
            try:
                indices = self._choose(sampler, all_rows(rest, rows.ranks), others, scores)
            except ValueError as error:
                logger.warning("threshold: no bank without %d of the images: %s", len(members), error)
                return torch.empty(0, dtype=torch.int64)
        left = torch.ones(len(rows.grids), dtype=torch.bool)
        left[members] = False
        starts = rows.starts
        sizes = (starts[1:] - starts[:-1])[left]
        ends = sizes.cumsum(0)
        image = torch.searchsorted(ends, indices, right=True)
        return indices - (ends - sizes)[image] + starts[:-1][left][image]

    def _scores(
        self, rows: Rows, bank: torch.Tensor, support: torch.Tensor | None, images: torch.Tensor, sizes: Sizes | None
    ) -> HeldOut:
        """Of these images [J], ascending, each on the rank that has it."""
        own = (images - rows.first).tolist()
        own = [i for i in own if 0 <= i < len(rows.local.grids)]

        def here() -> HeldOut:
            return image_scores(self.config, bank.to(self.device), support, rows.local, self.device, own, sizes)

        if rows.ranks is None:
            return here()
        found = HeldOut([], [])
        for part in rows.ranks.tell(rows.ranks.agree(here)):
            found.extend(part)
        return found

    def _choose(
        self, sampler: Any, rows: Rows, views: Sequence[FeatureRows], scores: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        where: dict[str, Any] = {"scores": dict(scores)} if scores else {}
        if getattr(sampler, "uses_positions", False):
            where["positions"] = rows.positions(rows.first_row + torch.arange(rows.local.total))
        if self.wants_embeddings and (embeddings := rows.local.embeddings()) is not None:
            where["embeddings"] = embeddings
        if views:
            where["views"] = [v.features for v in views]
        with _set(sampler, "group", self.group):
            return torch.as_tensor(sampler.select(rows.local.features, **where)).cpu().long()


def _lonely(sampler: Any) -> str:
    """What of a sampler, or of the samplers inside of it, selects in one process; "" for none."""
    first, second = getattr(sampler, "image_sampler", None), getattr(sampler, "patch_sampler", None)
    if not callable(getattr(first, "select_images", None)):
        first = None  # it chooses among means, on every rank alike
    for inner in (first, second):
        if inner is not None and (found := _lonely(inner)):
            return found
    if (preset := getattr(sampler, "preset", None)) is not None:
        return f"{type(sampler).__name__} with preset {preset!r}"
    return "" if getattr(sampler, "takes_group", False) else type(sampler).__name__


def _of_all(mask: torch.Tensor, rows: Rows) -> torch.Tensor:
    """A mask of the rows of all ranks; each may have that of its own."""
    if rows.ranks is None or sum(rows.ranks.counts(len(mask))) != rows.total:
        return mask
    return rows.ranks.gather(mask)


@contextmanager
def _set(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute that is there and None, for as long as the block runs."""
    if value is None or getattr(thing, name, False) is not None:
        yield
        return
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, None)


@contextmanager
def stages_shown(sampler: Any, progress: bool | None) -> Iterator[None]:
    """While inside, a sampler that has not been told otherwise shows bars of its own stages, as `progress` says."""
    if getattr(sampler, "show_progress", None) is not False:
        yield
        return
    sampler.show_progress = progress
    try:
        yield
    finally:
        sampler.show_progress = False


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Drop-ins draw from the global generators as their originals do; the folds must not add to their draws."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
