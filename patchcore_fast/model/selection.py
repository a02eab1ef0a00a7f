"""The step of `fit` that a sampler does: which rows become the bank, and the same again for held-out images."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.score import ImageScorer
from patchcore_fast.model.threshold import held_out_folds
from patchcore_fast.samplers import make_sampler

logger = logging.getLogger(__name__)


class Selection(NamedTuple):
    """What a sampler chose.

    indices : [k] int64 rows.  projection : [D, d] float32 that distances were measured in, or None.
    trusted : [J] images without a row that the sampler pruned as unsupported; None where it did not look.
    """

    indices: torch.Tensor
    projection: torch.Tensor | None
    trusted: torch.Tensor | None


class Selector:
    """The sampler of a fit: one that was given, or the config's, on a device."""

    def __init__(self, config: PatchCoreConfig, sampler: Any, device: torch.device) -> None:
        """See `samplers.make_sampler`. ValueError: the settings are of a sampler that was given, and none is given."""
        s = config.selection
        if sampler is None:
            if s.ratio is None:
                raise ValueError(
                    f"PatchCore.fit: the settings say sampler {s.sampler}, which was given as an object: give "
                    "PatchCore(config, SAMPLER), or settings with sampler, ratio and sampler_parameters=None"
                )
            sampler = make_sampler(s.sampler, ratio=s.ratio, seed=s.seed, device=device)
        self.config, self.device, self.sampler = config, device, sampler

    @property
    def wants_views(self) -> bool:
        """Whether it asks for the features of changed images (`model.views`) too."""
        return getattr(self.sampler, "instability", None) == "views"

    def select(
        self, rows: FeatureRows, views: Sequence[FeatureRows] = (), progress: Callable[[int, int], None] | None = None
    ) -> Selection:
        """Choose of all rows.

        Raises
        ------
        ValueError : fewer rows chosen than the score of a patch needs neighbours.
        """
        with _set(self.sampler, "progress", progress):
            indices = _choose(self.sampler, rows, views)
        if len(indices) < self.config.search.neighbours:
            raise ValueError(
                f"PatchCore.fit: the coreset has {len(indices)} of {rows.used} patches, at least "
                f"{self.config.search.neighbours} wanted: give more images or a larger ratio"
            )
        projection = getattr(self.sampler, "projection_", None)
        unsupported = getattr(self.sampler, "pruned_", {}).get("support")
        trusted = None
        if unsupported is not None:
            doubted = rows.positions(unsupported.nonzero()[:, 0])[:, 0].unique()
            trusted = torch.arange(len(rows.grids))
            trusted = trusted[~torch.isin(trusted, doubted)]
        return Selection(indices, None if projection is None else projection.detach().float().cpu(), trusted)

    def held_out_scores(
        self,
        rows: FeatureRows,
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
        count = len(rows.grids) // per_image
        if images is None or not len(images):
            images = torch.arange(count)
        plan = list(held_out_folds(images, count)) if count > 1 else []
        found: list[float] = []
        done, total = 0, sum(map(len, plan))
        with _random_state_kept():
            for fold in plan:
                members = (fold[:, None] * per_image + torch.arange(per_image)).reshape(-1)
                with ExitStack() as stack:
                    rest, held, numbers = stack.enter_context(rows.set_aside(members))
                    others = [stack.enter_context(v.set_aside(members))[0] for v in views]
                    scores = self._scored(rest, others, held)
                found += [s for s, n in zip(scores, numbers.tolist(), strict=False) if n % per_image == 0]
                done += len(fold)
                if progress is not None:
                    progress(done, total)
        return found

    def _scored(self, rest: FeatureRows, views: Sequence[FeatureRows], held: FeatureRows) -> list[float]:
        """A score for each image held out, none where no bank comes of the rest."""
        sampler = copy.copy(self.sampler)  # what it found in all rows stays with the original
        if hasattr(sampler, "progress"):
            sampler.progress = None
        try:
            indices = _choose(sampler, rest, views)
        except ValueError as error:
            logger.warning("threshold: no bank without %d of the images: %s", len(held.grids), error)
            return []
        if len(indices) < self.config.search.neighbours:
            return []
        bank = rest.features[indices].to(self.device)
        scorer = ImageScorer(self.config, bank)
        scores: list[float] = []
        first = 0
        for (h, w), group in groupby(held.grids):
            left = len(list(group))
            while left:
                images = min(left, self.config.running.batch_size)
                part = held.features[first : first + images * h * w].to(self.device)
                scores += scorer(part, images, bank)[0].tolist()
                first, left = first + len(part), left - images
        return scores


def _choose(sampler: Any, rows: FeatureRows, views: Sequence[FeatureRows]) -> torch.Tensor:
    where: dict[str, Any] = {}
    if getattr(sampler, "uses_positions", False):
        where["positions"] = rows.positions(torch.arange(rows.used))
    if views:
        where["views"] = [v.features for v in views]
    return torch.as_tensor(sampler.select(rows.features, **where)).cpu().long()


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
def _random_state_kept() -> Iterator[None]:
    """Drop-ins draw from the global generators as their originals do; the folds must not add to their draws."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
