"""The order in which greedy takes rows: the larger key first, then the lower row."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


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
