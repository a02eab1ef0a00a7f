"""From patch features to patch and image scores, by a config's scorer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.kernels import PreparedBank, prepare
from patchcore_fast.model.collect import Rows, Sizes
from patchcore_fast.model.pixels import HeldOut, laid_quantiles
from patchcore_fast.scorers import make_scorer
from patchcore_fast.scorers.influence import Search, rows_of
from patchcore_fast.scoring import image_score
from patchcore_fast.search import priced_search

Score = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]  # rows, images -> their scores, of patches


class ImageScorer:
    """The config's scorer, made for a bank [M, D]: what it wants to know of that bank is computed here, once."""

    def __init__(self, config: PatchCoreConfig, bank: torch.Tensor) -> None:
        """See `scorers.make_scorer`."""
        self.config, s = config, config.scoring
        self._score = make_scorer(
            s.scorer, bank, k=min(config.search.neighbours, len(bank)), squared=config.squared,
            noise_scale=s.noise_scale, noise_draws=s.noise_draws, seed=config.selection.seed,
        )  # fmt: skip

    def patches(
        self, features: torch.Tensor, bank: torch.Tensor | PreparedBank, search: Search | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [Q] of rows [Q, D] and the bank row nearest to each; arguments as of the call."""
        scores, nearest = self._score(features, bank, search)
        if self.config.features.metric == "cosine":
            scores = scores / 2  # of rows of length 1: |x - y|^2 / 2 = 1 - cos
        return scores, nearest

    def __call__(
        self, features: torch.Tensor, images: int, bank: torch.Tensor | PreparedBank, search: Search | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image scores [B] and patch scores [B, P] of rows [B * P, D].

        bank : the rows to compare with, some of those this was made for, prepared or not.  search : in place of
            an exact one in them.
        """
        s = self.config.scoring
        scores, nearest = self.patches(features, bank, search)
        patches = scores.view(images, -1)
        images_scores = image_score(
            patches, s.image_score, features=features, nearest=nearest, bank=rows_of(bank), b=s.reweight_neighbours
        )
        return images_scores, patches


def image_scores(
    config: PatchCoreConfig,
    bank: torch.Tensor,
    support: torch.Tensor | None,
    rows: Rows,
    device: torch.device,
    images: Iterable[int] | None = None,
    sizes: Sizes | None = None,
) -> HeldOut:
    """Scores of each image of this process, or of some, by a bank [M, D] on the device with `support` [M] or None.

    One image at a time: what a score is must not depend on the images beside it, which are others on other ranks.

    sizes : as of `Rows`; without it maps are not asked for.
    """
    scorer, starts = ImageScorer(config, bank), rows.starts.tolist()
    search = priced_search(bank, support, config.search.price)
    numbers = range(len(rows.grids)) if images is None else images
    ready = prepare(bank) if search is None else bank
    found = HeldOut([], [])
    for i in numbers:
        score, patches = scorer(rows.read(starts[i], starts[i + 1]).to(device), 1, ready, search)
        found.add(float(score), laid_quantiles(patches[0], rows.grids[i], sizes or {}, config.scoring))
    return found
