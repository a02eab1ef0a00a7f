"""k-center greedy samplers with the semantics of patchcore-inspection, on the exact batched engine."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import KCenterResult, k_center_greedy
from ..kernels.exact import root
from .base import Sampler, check_count, check_percentage, check_seed
from .checkpoint import Checkpoint, fingerprint, sampled
from .measures import mean_distance
from .projection import project, random_projection
from .shards import Shards


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

    Attributes
    ----------
    radius : None, or the distance, in the space of the selection, within which all rows are to lie of the picks: the
        selection ends as soon as they do, and the count is a maximum. Set it.

    References
    ----------
    Roth et al., Towards total recall in industrial anomaly detection, CVPR 2022, Algorithm 1.
    """

    takes_group = True
    takes_all = False  # whether percentage may be 1
    checkpoint_seconds = 30.0  # between writes

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
        self.percentage = check_percentage(percentage, self.takes_all)
        self.device = None if device is None else torch.device(device)
        if dimension_to_project_features_to is not None:
            check_count("dimension_to_project_features_to", dimension_to_project_features_to)
        self.dimension_to_project_features_to = dimension_to_project_features_to
        self.seed = check_seed(seed)
        self.backend = backend
        self.radius: float | None = None

    def _select(self, features: Tensor) -> Tensor:
        count = int(self._total(features) * self.percentage)
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
        return self._k_center(reduced, count, start=Shards(self.ranks, reduced).farthest_from_mean())

    def _k_center(self, reduced: Tensor, count: int, start: int | None = None, **given: Any) -> KCenterResult:
        """`k_center_greedy` of the rows in which distances are measured, from the checkpoint if there is one."""
        given |= {"backend": self.backend, "group": self.group, "radius": self.radius}
        if self.checkpoint is None:
            return k_center_greedy(reduced, count, start=start, progress=self.progress, **given)
        kept, rows, squared = self._open(self.checkpoint, reduced, count)
        done, told = rows.shape[0], self.progress
        if done:
            start = None

        def progress(made: int, of: int) -> None:
            if told is not None:
                told(done + made, done + of)

        if done == count:
            return KCenterResult(rows, root(squared).float(), 0, 0)
        try:
            rest = k_center_greedy(
                reduced, count - done, start=start, selected=rows if done else None, progress=progress,
                picked=None if kept is None else kept.add, **given,
            )  # fmt: skip
        finally:
            if kept is not None:
                kept.write()
        radii = torch.cat([root(squared).float(), rest.radii.cpu()])
        return KCenterResult(torch.cat([rows, rest.indices.cpu()]), radii, rest.passes, rest.distances)

    def _open(
        self, path: str | os.PathLike[str], reduced: Tensor, count: int
    ) -> tuple[Checkpoint | None, Tensor, Tensor]:
        """The checkpoint, which rank 0 has, and the picks in it, which all have."""
        shards = Shards(self.ranks, reduced)
        rows = shards.rows(sampled(shards.total))
        about = {"sampler": type(self).__name__, "rows": shards.total, "columns": reduced.shape[1], "picks": count,
                 "dtype": str(reduced.dtype), "sample": fingerprint(rows)}  # fmt: skip
        about |= {} if self.radius is None else {"radius": self.radius}
        ranks = shards.ranks
        if ranks is None:
            kept = Checkpoint(path, about, self.checkpoint_seconds)
            return kept, kept.rows, kept.squared
        mine = ranks.agree(lambda: Checkpoint(path, about, self.checkpoint_seconds) if ranks.rank == 0 else None)
        none = torch.empty(0, dtype=torch.int64)
        found = ranks.gather(none if mine is None else mine.rows)
        return mine, found, ranks.gather(none.double() if mine is None else mine.squared)


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
        shards = Shards(self.ranks, reduced)
        points = min(self.number_of_starting_points, shards.total)
        random = np.random.RandomState(self.seed)
        starting = shards.rows(torch.from_numpy(random.choice(shards.total, points, replace=False)))
        return self._k_center(reduced, count, initial_min_dist=mean_distance(reduced, starting))
