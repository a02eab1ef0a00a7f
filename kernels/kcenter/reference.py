"""Plain k-center greedy in float64: the specification. One pass over all rows per pick; never optimised."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..exact import root, squared_distance, squared_weights


def squared_to(x: Tensor, row: int) -> Tensor:  # [N, D] -> [N] float64
    """Canonical squared distances of all rows to one row."""
    out = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    for lo in range(0, x.shape[0], 2048):  # so that the float64 copy stays small
        out[lo : lo + 2048] = squared_distance(x[lo : lo + 2048], x[row])
    return out


def first_largest(key: Tensor) -> int:
    """The lowest index among the largest values (argmax promises no index for ties)."""
    return int((key == key.max()).nonzero()[0])


def greedy_key(squared: Tensor, weights: Tensor | None, taken: Tensor) -> Tensor:
    """What a step maximises: (weight * distance)^2; a zero weight means zero, also times inf; never a taken row."""
    key = squared if weights is None else torch.where(weights > 0, weights * squared, 0.0)
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
        squared = torch.full((n,), torch.inf, dtype=torch.float64, device=features.device)
    else:
        squared = initial_min_dist.double().square()
    weights = None if weights is None else squared_weights(weights)
    for row in [] if selected is None else selected.tolist():
        taken[row] = True
        squared = torch.minimum(squared, squared_to(features, row))
    indices, radii = [], []
    for step in range(k):
        row = start if step == 0 and start is not None else first_largest(greedy_key(squared, weights, taken))
        indices.append(row)
        radii.append(math.sqrt(squared[row]))
        taken[row] = True
        squared = torch.minimum(squared, squared_to(features, row))
    return torch.tensor(indices, device=features.device), torch.tensor(radii, dtype=torch.float64).float()


def additive_greedy_reference(
    features: Tensor,  # [N, D]
    k: int,
    gain: Tensor,  # [N]
    *,
    alpha: float = 1.0,
    start: int | None = None,
    selected: Tensor | None = None,  # [S]
) -> tuple[Tensor, Tensor]:  # [k] int64, [k] float32
    """The largest alpha * distance + gain, one pick after the other. The arguments are those of `additive_greedy`."""
    gain = gain.double()
    squared = torch.full((features.shape[0],), torch.inf, dtype=torch.float64, device=features.device)
    taken = torch.zeros(features.shape[0], dtype=torch.bool, device=features.device)
    earlier = [] if selected is None else selected.tolist()
    for row in earlier:
        taken[row] = True
        squared = torch.minimum(squared, squared_to(features, row))
    indices, radii = [], []
    for step in range(k):
        # With no pick yet all rows are equally far.
        key = alpha * root(squared) + gain if earlier or step else gain
        row = start if step == 0 and start is not None else first_largest(key.masked_fill(taken, -torch.inf))
        indices.append(row)
        radii.append(math.sqrt(squared[row]))
        taken[row] = True
        squared = torch.minimum(squared, squared_to(features, row))
    return torch.tensor(indices, device=features.device), torch.tensor(radii, dtype=torch.float64).float()
