"""The order in which greedy takes rows: the larger key first, then the lower row; and where it may end."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .exact import root


@dataclass(frozen=True, order=True)
class Rank:
    """Place in the greedy order; the greatest comes first."""

    key: float
    minus_row: int


@dataclass
class Picks:
    """Accepted rows, in order, with their squared distances at selection."""

    rows: list[int] = field(default_factory=list)
    squared: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Stop:
    """Where to end before k picks are made: at the first whose weighted distance is not above the radius."""

    radius: float  # in the units of the weights
    weight: Tensor | None  # [N] float64, squared

    def place(self, rows: Tensor, squared: Tensor) -> int | None:
        """Which of these picks [P], in order, is the first to leave out; None: none."""
        key = squared
        if self.weight is not None:
            weight = self.weight[rows]
            key = torch.where(weight > 0, weight * squared, 0.0)
        below = (root(key) <= self.radius).nonzero()
        return int(below[0]) if below.shape[0] else None


def take_top(key: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Rank | None]:
    """Positions (ascending) of the `count` first in rank, and the rank of the best one left out.

    key [C] float64, rows [C] int64 ascending. Picked rows (key < 0) are never taken.
    """
    if count >= key.shape[0]:
        return (key >= 0).nonzero().squeeze(1), None
    edge = torch.topk(key, count + 1).values[-1]
    above = (key > edge).nonzero().squeeze(1)
    level = (key == edge).nonzero().squeeze(1)  # ascending: ties go to the lowest rows
    if edge < 0:
        return above, None
    fill = count - above.shape[0]
    chosen = torch.cat([above, level[:fill]]).sort().values
    return chosen, Rank(float(edge), -int(rows[level[fill]]))
