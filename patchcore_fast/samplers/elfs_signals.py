"""Signals of rows that lie on several ranks, and the weight that signals make together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..kernels import knn_rarity
from ..kernels.ranks import Ranks
from ..scores import instability, rarity
from .pruning import robust
from .shards import Shards


def views_over_ranks(ranks: Ranks | None, features: Tensor, views: Any, **options: Any) -> Tensor:
    """`scores.instability` of all rows, from each rank's own rows [N_r, D] and views: [N] float32."""

    def own() -> Tensor:
        if not features.shape[0]:
            return torch.empty(0)
        return instability(features, views, **options)

    return Shards(ranks, features).whole(own() if ranks is None else ranks.agree(own))


def rarity_over_ranks(
    ranks: Ranks | None, seen: Tensor, rows: int, k: int, anchors: int, group: Any, **common: Any
) -> Tensor:
    """`scores.rarity` of all rows, from each rank's own [N_r, D]: [N] float32. k : at most what anchors allow."""
    k = min(k, min(anchors, rows) - 1)
    if ranks is None:
        return rarity(seen, k=k, anchors=anchors, **common)
    drawing = torch.Generator().manual_seed(common["seed"])
    x = seen.to(common["device"] or seen.device)
    return Shards(ranks, x).whole(knn_rarity(x, k, anchors=anchors, generator=drawing, group=group))


def weight_of(scores: Mapping[str, Tensor], weights: Mapping[str, float], rows: int) -> Tensor | None:
    """exp of the weighted sum of the robust signals, [N] float64; None without weights."""
    signals = {
        "representativeness": scores.get("representativeness"),
        "density": -scores["rarity"] if "rarity" in scores else None,
        "uncertainty": scores.get("instability", scores.get("difficulty")),
    }
    if not any(weights.values()):
        return None
    total = torch.zeros(rows, dtype=torch.float64)
    for what, w in weights.items():
        if w:
            total += w * robust(signals[what])
    return total.exp()
