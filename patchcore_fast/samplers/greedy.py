"""k-center greedy samplers with the semantics of patchcore-inspection, on the exact batched engine."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..kernels import KCenterResult, k_center_greedy
from ..kernels.exact import halving_sum, root, squared_distance
from ..kernels.surroundings import undisturbed
from .base import Sampler, check_count, check_percentage, check_seed
from .projection import project, random_projection

_CHUNK_BYTES = 2 << 20  # of float64 rows
_UNIT = 2.0**-53


class GreedyCoresetSampler(Sampler):
    """PatchCore's coreset: farthest-point traversal of the randomly projected features.

    The first pick is the row farthest from the mean of all rows: the start rule of patchcore-inspection's exact
    sampler (largest row norm of the distance matrix), without its N x N matrix.

    Parameters
    ----------
    percentage : share of rows to keep, in (0, 1); the count is int(N * percentage).
    device : where to select; None: where the features are. Only the projected rows are moved there.
    dimension_to_project_features_to : width of the random projection, or None for none. Skipped where D equals it.
    seed : of the projection.
    backend : of `k_center_greedy`.

    References
    ----------
    Roth et al., Towards total recall in industrial anomaly detection, CVPR 2022, Algorithm 1.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str | None = None,
        dimension_to_project_features_to: int | None = 128,
        *,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.percentage = check_percentage(percentage)
        self.device = None if device is None else torch.device(device)
        if dimension_to_project_features_to is not None:
            check_count("dimension_to_project_features_to", dimension_to_project_features_to)
        self.dimension_to_project_features_to = dimension_to_project_features_to
        self.seed = check_seed(seed)
        self.backend = backend

    def _select(self, features: Tensor) -> Tensor:
        count = int(features.shape[0] * self.percentage)
        if count == 0:
            return torch.empty(0, dtype=torch.int64)
        reduced = self._reduce(features)
        result = self._greedy(reduced, count)
        self.radii_ = result.radii.cpu()
        return result.indices

    def _reduce(self, features: Tensor) -> Tensor:
        device = self.device or features.device
        target = self.dimension_to_project_features_to
        if target is None or features.shape[1] == target:
            return features.to(device)
        self.projection_ = random_projection(features.shape[1], target, self.seed)
        return project(features, self.projection_, device)

    def _greedy(self, reduced: Tensor, count: int) -> KCenterResult:
        start = farthest_from_mean(reduced)
        return k_center_greedy(reduced, count, start=start, backend=self.backend, progress=self.progress)


class ApproximateGreedyCoresetSampler(GreedyCoresetSampler):
    """patchcore-inspection's default sampler: greedy from the mean distance to a few random rows.

    Each row's initial minimum distance is its mean distance to `number_of_starting_points` random rows, and stays in
    force; the starting rows themselves are not selected by it. The draws are those of patchcore-inspection after
    torch.manual_seed(seed) and np.random.seed(seed), from generators of their own.

    Parameters
    ----------
    As `GreedyCoresetSampler`, and number_of_starting_points : at most N are used.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str | None = None,
        number_of_starting_points: int = 10,
        dimension_to_project_features_to: int | None = 128,
        *,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        super().__init__(percentage, device, dimension_to_project_features_to, seed=seed, backend=backend)
        self.number_of_starting_points = check_count("number_of_starting_points", number_of_starting_points)

    def _greedy(self, reduced: Tensor, count: int) -> KCenterResult:
        points = min(self.number_of_starting_points, reduced.shape[0])
        random = np.random.RandomState(self.seed)
        rows = torch.from_numpy(random.choice(reduced.shape[0], points, replace=False))
        initial = mean_distance(reduced, reduced[rows.to(reduced.device)])
        return k_center_greedy(reduced, count, initial_min_dist=initial, backend=self.backend, progress=self.progress)


@undisturbed
def farthest_from_mean(x: Tensor) -> int:
    """The row with the largest distance to the mean of all rows, the lowest among equals; NaN rows are left to greedy.

    Compares |N x - sum x|^2, which integer-valued rows make exact: roughly for all rows, canonically for those that
    come within rounding of the largest.
    """
    n, dim = x.shape
    step = _rows_at_a_time(dim)
    total = torch.zeros(dim, dtype=torch.float64, device=x.device)
    for part in x.split(step):  # in a fixed order of summation, so that the start does not depend on the device
        total += halving_sum(part.t().double().contiguous())
    # Into one tensor: small results between large temporaries would keep the allocator from using those again.
    rough = torch.empty(n, dtype=torch.float64, device=x.device)
    for lo in range(0, n, step):
        rough[lo : lo + step] = (x[lo : lo + step].double() * n - total).square_().sum(1)
    if bool(rough.isnan().any()):
        return 0
    near = (rough >= rough.max() * (1 - 4 * (dim + 4) * _UNIT)).nonzero().squeeze(1)
    value = torch.empty(near.shape[0], dtype=torch.float64, device=x.device)
    for lo in range(0, near.shape[0], step):
        value[lo : lo + step] = squared_distance(x[near[lo : lo + step]].double() * n, total)
    return int(near[(value == value.max()).nonzero()[0]])


@undisturbed
def mean_distance(x: Tensor, points: Tensor) -> Tensor:
    """Mean distance of each row to the points, rounded to float32 unless x is float64: [N, D], [P, D] -> [N] float64.

    The value does not depend on the device: where a quick float64 sum leaves the rounding open, the canonical one
    decides. inf instead of NaN: rows that are not finite are left to greedy, which says which they are.
    """
    out = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    # In units of 2^-53, to first order: a squared distance is off by D + 2 in whatever order it is summed, and its root
    # by half of that and one; the mean adds P. Twice, for the quick and for the canonical value.
    slack = (x.shape[1] + 2 * points.shape[0] + 16) * _UNIT
    step = _rows_at_a_time(x.shape[1])
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


def _rows_at_a_time(dim: int) -> int:
    return max(1, _CHUNK_BYTES // (8 * dim))


def _canonical_mean_distance(x: Tensor, points: Tensor) -> Tensor:
    total = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    for point in points:
        total += root(squared_distance(x, point))
    return total / points.shape[0]
