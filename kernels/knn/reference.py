"""Brute-force k nearest neighbours in float64: the specification; never optimised."""

from __future__ import annotations

import torch
from torch import Tensor

from ..exact import root, squared_distance


def knn_reference(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """query [Q, D], bank [M, D] -> distances [Q, k] float32 ascending, rows [Q, k] int64; ties: lowest row."""
    values, rows = [], []
    for x in query:
        squared, order = squared_distance(bank, x).sort(stable=True)
        values.append(root(squared[:k]))
        rows.append(order[:k])
    return torch.stack(values).float(), torch.stack(rows)


def knn_rarity_reference(features: Tensor, k: int, anchors: Tensor) -> Tensor:
    """Mean float64 distance to the k nearest anchors, a row's own anchor left out: [N, D], [A] -> [N] float32."""
    out = []
    for i, x in enumerate(features):
        others = anchors[anchors != i]
        out.append(root(squared_distance(features[others], x).sort().values[:k]).float().double().mean())
    return torch.stack(out).float()
