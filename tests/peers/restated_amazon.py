"""patchcore-inspection's selection, written again in plain steps with its arithmetic: the oracle and the baseline.

float32 distances in expanded form, one pick at a time; the exact sampler with its N x N matrix.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def distances(a: Tensor, b: Tensor) -> Tensor:
    """[A, d], [B, d] -> [A, B]: sqrt(max(0, |a|^2 + |b|^2 - 2 a.b))."""
    squares = [(m[:, None] @ m[:, :, None]).flatten() for m in (a, b)]
    return (squares[0][:, None] + squares[1] - 2 * (a @ b.T)).clamp_min(0).sqrt()


def exact(reduced: Tensor, k: int) -> np.ndarray:
    """[N, d] -> [k] rows. The first has the largest norm of its row of the N x N matrix."""
    matrix = distances(reduced, reduced)
    nearest = matrix.norm(dim=1)
    picks = []
    for _ in range(k):
        picks.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, matrix[:, picks[-1]])
    return np.array(picks, np.int64)


def approximate(reduced: Tensor, k: int, points: int = 10) -> np.ndarray:
    """[N, d] -> [k] rows. Distances start as the mean distance to `points` rows from NumPy's global generator."""
    rows = np.random.choice(len(reduced), min(points, len(reduced)), replace=False)
    nearest = distances(reduced, reduced[rows]).mean(1)
    picks = []
    for _ in range(k):
        picks.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances(reduced, reduced[picks[-1:]])[:, 0])
    return np.array(picks, np.int64)


def projected(features: Tensor, width: int = 128) -> Tensor:
    """[N, D] -> [N, width] by a fresh linear layer from torch's global generator; nothing to do at D == width."""
    if features.shape[1] == width:
        return features
    with torch.no_grad():
        return torch.nn.Linear(features.shape[1], width, bias=False).to(features.device)(features)


SELECT = {"GreedyCoresetSampler": exact, "ApproximateGreedyCoresetSampler": approximate}


def run(sampler: str, features: Tensor, percentage: float, width: int = 128) -> np.ndarray:
    """Row numbers that upstream's sampler of this name selects."""
    return SELECT[sampler](projected(features, width), int(len(features) * percentage))
