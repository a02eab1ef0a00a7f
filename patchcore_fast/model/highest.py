"""Image scores without the scores of all patches, where only the highest of these decide."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from patchcore_fast.config import PatchCoreConfig, top_share
from patchcore_fast.layered_bank import Bank, LayeredBank
from patchcore_fast.model.score import ImageScorer
from patchcore_fast.scoring import patch_scores, top_patches
from patchcore_fast.search import widened


def highest_scorer(config: PatchCoreConfig, bank: Bank) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """From rows [B * P, D] and B to the image scores [B] that `scorer_of` gives, bit for bit.

    Patches that are not among an image's highest get a score of 0 on the way; those that decide get their own.

    Raises
    ------
    ValueError : the scores want all patches, or another search than ours.
    """
    scorer, wanted = config.scoring.scorer, "predict: scores without maps want"
    if isinstance(bank, LayeredBank):
        raise ValueError(f'{wanted} one bank: here is one for each of {len(bank.parts)} layers (banks="layer")')
    if scorer != "distance":
        raise ValueError(f'{wanted} scorer="distance", whose highest patches can be told from few: got {scorer!r}')
    if bank.searcher is not None:
        raise ValueError(f'{wanted} index="exact", our own search: the bank has {bank.searcher.kind!r}')
    made = ImageScorer(config, bank.features)
    share, score = top_share(config.scoring.image_score), partial(patch_scores, squared=config.squared)

    def scores(features: torch.Tensor, images: int) -> torch.Tensor:
        count = 1 if share is None else top_patches(share, len(features) // images)

        def highest(query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
            return bank.highest.search(widened(query, bank.searched), k, images, count, score)

        return made(features, images, bank.features, highest)[0]

    return scores
