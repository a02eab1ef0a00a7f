"""The yardstick: k-center greedy with one pick at a time, as fast as plain torch lets it be."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LoopResult:
    """On the CPU: indices [k] int64 in pick order; radii [k] float32, inf first; seconds [k] since the start."""

    indices: torch.Tensor
    radii: torch.Tensor
    seconds: list[float]


def one_pick_at_a_time(
    features: torch.Tensor,  # [N, D] float32
    k: int,
    start: int,
    stop_after: float = math.inf,  # seconds
) -> LoopResult:
    """Farthest-point traversal (Gonzalez 1985) with one fused matrix-vector product per pick.

    A pick costs one `addmv` over the N x D matrix, an in-place minimum and an argmax; the norms are computed once.
    This is the fair opponent: loops that form differences, as published code does, are several times slower. The
    expanded form |x|^2 + |y|^2 - 2xy loses digits, so the rows are centred first; a near-tie may still fall the other
    way than in float64. `stop_after` ends the loop early, with fewer than k picks.

    Raises
    ------
    ValueError : features not 2-D, k not in [1, N], or start not in [0, N).
    """
    if features.ndim != 2:
        raise ValueError(f"one_pick_at_a_time: features must be 2-D [N, D], got shape {tuple(features.shape)}")
    n = len(features)
    if not 1 <= k <= n or not 0 <= start < n:
        raise ValueError(f"one_pick_at_a_time: k in [1, {n}] and start in [0, {n}) are wanted, got {k} and {start}")
    begin = time.perf_counter()
    x = features - features.mean(0)
    norms = x.square().sum(1)
    nearest = torch.full_like(norms, torch.inf)
    squared = torch.empty_like(norms)
    indices = torch.empty(k, dtype=torch.int64)
    radii = torch.empty(k)
    seconds = []
    pick, radius = start, torch.inf
    for i in range(k):
        indices[i], radii[i] = pick, radius
        seconds.append(time.perf_counter() - begin)
        if i + 1 == k or seconds[-1] > stop_after:
            break
        torch.addmv(norms, x, x[pick], alpha=-2, out=squared)
        squared += norms[pick]
        torch.minimum(nearest, squared, out=nearest)
        nearest[pick] = -torch.inf  # neither rounding nor a tie at zero may offer a pick again
        largest, where = nearest.max(0)
        pick, radius = int(where), float(largest.clamp_min(0).sqrt())
    return LoopResult(indices[: len(seconds)], radii[: len(seconds)], seconds)
