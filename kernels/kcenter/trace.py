"""Is a pick sequence greedy? Judged in float64, without the reference: for large N, where that takes too long."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy_shortfall(
    features: Tensor,  # [N, D]
    indices: Tensor,  # [k] int64, in pick order
    block: int = 32,
) -> float:
    """How far a pick sequence is from farthest-point traversal: 0.0 is a perfect greedy trace, whatever the ties.

    At each step the picked row should be the one farthest from all earlier picks; the result is the largest relative
    amount by which it was nearer than the farthest row, over all steps. Expanded form on centred rows, so the radius
    should not be below 1e-5 of the spread. O(N k D) work; a float64 copy of the features and N x block memory.
    """
    x = features.double()
    x = x - x.mean(0)
    norms = x.square().sum(1)
    nearest = torch.full_like(norms, torch.inf)
    steps = torch.arange(block, device=x.device)
    worst = 0.0
    for picks in indices.split(block):
        # Column j of `before`: squared distance of every row to the nearest of all picks before the j-th of the block.
        squared = torch.addmm(norms[:, None] + norms[picks], x, x[picks].T, alpha=-2)
        after = torch.minimum(squared, nearest[:, None]).cummin(1).values
        before = torch.cat([nearest[:, None], after[:, :-1]], 1)
        nearest = after[:, -1].contiguous()
        farthest = before.max(0).values.clamp_min(0).sqrt()
        taken = before[picks, steps[: len(picks)]].clamp_min(0).sqrt()
        gap = (farthest - taken) / farthest.clamp_min(torch.finfo(torch.float64).tiny)
        gap[~torch.isfinite(farthest)] = 0  # the start row is free
        worst = max(worst, float(gap.max()))
    return worst
