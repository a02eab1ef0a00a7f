"""Means over all rows that a selection begins with: the row farthest from the mean, and mean distances to some rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.exact import halving_sum, root, squared_distance
from ..kernels.surroundings import undisturbed

UNIT = 2.0**-53
_CHUNK_BYTES = 2 << 20  # of float64 rows


@undisturbed
def farthest_from_mean(x: Tensor) -> int:
    """The row with the largest distance to the mean of all rows, the lowest among equals; NaN rows are left to greedy.

    Compares |N x - sum x|^2, which integer-valued rows make exact: roughly for all rows, canonically for those that
    come within rounding of the largest.
    """
    n, dim = x.shape
    step = rows_at_a_time(dim)
    total = torch.zeros(dim, dtype=torch.float64, device=x.device)
    for part in x.split(step):  # in a fixed order of summation, so that the start does not depend on the device
        total += halving_sum(part.t().double().contiguous())
    rough = roughly_from_sum(x, n, total)
    if bool(rough.isnan().any()):
        return 0
    near, value = nearly_farthest(x, n, total, rough, float(rough.max()))
    return int(near[(value == value.max()).nonzero()[0]])


def roughly_from_sum(x: Tensor, n: int, total: Tensor) -> Tensor:
    """|n x - total|^2 in some order of summation: [N, D], [D] float64 -> [N] float64."""
    step = rows_at_a_time(x.shape[1])
    # Into one tensor: small results between large temporaries would keep the allocator from using those again.
    rough = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    for lo in range(0, x.shape[0], step):
        rough[lo : lo + step] = (x[lo : lo + step].double() * n - total).square_().sum(1)
    return rough


def nearly_farthest(x: Tensor, n: int, total: Tensor, rough: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Rows [S] whose rough value comes within rounding of the largest there is, and their canonical values [S]."""
    step, dim = rows_at_a_time(x.shape[1]), x.shape[1]
    near = (rough >= most * (1 - 4 * (dim + 4) * UNIT)).nonzero().squeeze(1)
    value = torch.empty(near.shape[0], dtype=torch.float64, device=x.device)
    for lo in range(0, near.shape[0], step):
        value[lo : lo + step] = squared_distance(x[near[lo : lo + step]].double() * n, total)
    return near, value


@undisturbed
def mean_distance(x: Tensor, points: Tensor) -> Tensor:
    """Mean distance of each row to the points, rounded to float32 unless x is float64: [N, D], [P, D] -> [N] float64.

    The value does not depend on the device: where a quick float64 sum leaves the rounding open, the canonical one
    decides. inf instead of NaN: rows that are not finite are left to greedy, which says which they are.
    """
    out = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    # In units of 2^-53, to first order: a squared distance is off by D + 2 in whatever order it is summed, and its root
    # by half of that and one; the mean adds P. Twice, for the quick and for the canonical value.
    slack = (x.shape[1] + 2 * points.shape[0] + 16) * UNIT
    step = rows_at_a_time(x.shape[1])
    for lo in range(0, x.shape[0], step):
        part = x[lo : lo + step]
        if x.dtype == torch.float64:
            value = _canonical_mean_distance(part, points)
        else:
            quick = torch.cdist(part.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").mean(1)
            low, high = quick * (1 - slack), quick * (1 + slack)
            value = low.float().double()
            sure = (value == high.float()) & (low > 1e-30) & (high < 1e30)
            if not bool(sure.all()):
                open_ = (~sure).nonzero().squeeze(1)
                mean = _canonical_mean_distance(part[open_], points)
                value[open_] = torch.where((mean > 1e-30) & (mean < 1e30), mean.float().double(), mean)
        out[lo : lo + step] = value.nan_to_num_(nan=torch.inf, posinf=torch.inf)
    return out


def rows_at_a_time(dim: int) -> int:
    """Rows of a chunk."""
    return max(1, _CHUNK_BYTES // (8 * dim))


def _canonical_mean_distance(x: Tensor, points: Tensor) -> Tensor:
    total = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    for point in points:
        total += root(squared_distance(x, point))
    return total / points.shape[0]
