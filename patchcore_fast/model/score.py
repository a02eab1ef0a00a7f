"""From patch features to patch and image scores, by a config's scorer."""

from __future__ import annotations

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.scorers import make_scorer
from patchcore_fast.scorers.influence import Search
from patchcore_fast.scoring import image_score


class ImageScorer:
    """The config's scorer, made for a bank [M, D]: what it wants to know of that bank is computed here, once."""

    def __init__(self, config: PatchCoreConfig, bank: torch.Tensor) -> None:
        """See `scorers.make_scorer`."""
        self.config, s = config, config.scoring
        self.patches = make_scorer(
            s.scorer, bank, k=config.search.neighbours, squared=s.distance == "squared",
            noise_scale=s.noise_scale, noise_draws=s.noise_draws, seed=config.selection.seed,
        )  # fmt: skip

    def __call__(
        self, features: torch.Tensor, images: int, bank: torch.Tensor, search: Search | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image scores [B] and patch scores [B, P] of rows [B * P, D].

        bank : the rows to compare with, some of those this was made for.  search : in place of an exact one in them.
        """
        s = self.config.scoring
        scores, nearest = self.patches(features, bank, search)
        patches = scores.view(images, -1)
        images_scores = image_score(
            patches, s.image_score, features=features, nearest=nearest, bank=bank, b=s.reweight_neighbours
        )
        return images_scores, patches
