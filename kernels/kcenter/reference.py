"""Plain k-center greedy in float64: the specification. One pass over all rows per pick; never optimised."""

from __future__ import annotations

import torch
from torch import Tensor

from ..exact import squared_distance


def distances_to(x: Tensor, row: int) -> Tensor:  # [N, D] -> [N] float64
    """Canonical distances of all rows to one row."""
    # Chunks of rows, so that the float64 copy stays small.
    return torch.cat([squared_distance(part, x[row]).sqrt() for part in x.split(2048)])


def first_largest(key: Tensor) -> int:
    """The lowest index among the largest values (argmax promises no index for ties)."""
    return int((key == key.max()).nonzero()[0])


def greedy_key(distance: Tensor, weights: Tensor | None, taken: Tensor) -> Tensor:
    """What a step maximises: weight * distance; a zero weight means zero, also times inf; never a taken row."""
    key = distance if weights is None else torch.where(weights > 0, weights.double() * distance, 0.0)
    return key.masked_fill(taken, -1.0)


def k_center_greedy_reference(
    features: Tensor,  # [N, D]
    k: int,
    *,
    start: int | None = None,
    initial_min_dist: Tensor | None = None,  # [N]
    selected: Tensor | None = None,  # [S]
    weights: Tensor | None = None,  # [N]
) -> tuple[Tensor, Tensor]:  # [k] int64, [k] float32
    """Gonzalez (1985), one pick after the other. The arguments are those of `k_center_greedy`."""
    n = features.shape[0]
    taken = torch.zeros(n, dtype=torch.bool, device=features.device)
    if initial_min_dist is None:
        distance = torch.full((n,), torch.inf, dtype=torch.float64, device=features.device)
    else:
        distance = initial_min_dist.double().clone()
    for row in [] if selected is None else selected.tolist():
        taken[row] = True
        distance = torch.minimum(distance, distances_to(features, row))
    indices, radii = [], []
    for step in range(k):
        row = start if step == 0 and start is not None else first_largest(greedy_key(distance, weights, taken))
        indices.append(row)
        radii.append(float(distance[row]))
        taken[row] = True
        distance = torch.minimum(distance, distances_to(features, row))
    return torch.tensor(indices, device=features.device), torch.tensor(radii, dtype=torch.float32)


def greedy_trace_error(features: Tensor, indices: Tensor) -> float:
    """How far a selection is from a greedy one: the largest shortfall of a pick, as a share of its radius.

    Each pick's float64 distance to the picks before it is compared with the largest such distance of any row at
    that moment; 0 is a perfect greedy trace whatever the ties. Stands in for the reference where N is large.
    """
    distance = torch.full((features.shape[0],), torch.inf, dtype=torch.float64, device=features.device)
    worst = 0.0
    for step, row in enumerate(indices.tolist()):
        largest = float(distance.max())
        if step > 0 and largest > 0:
            worst = max(worst, 1.0 - float(distance[row]) / largest)
        distance = torch.minimum(distance, distances_to(features, row))
    return worst
