"""What a backend must provide. The drivers know nothing else of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..ranking import Picks, Rank
from ..tuning import Tuning


@dataclass(frozen=True)
class Reached:
    """Candidates: refreshed rows whose key reaches an edge."""

    rows: Tensor  # [C] int64 ascending; where there are more than asked for, the first in rank
    inside: int  # how many there are
    rest: Rank | None  # the first in rank of those left out, None if none was
    distances: int  # computed on the way


class KCenterLeaves(Protocol):
    """Rows [N, D], the picks made so far, and what is known of each row's distance to the nearest of them.

    The key of a row is what greedy maximises: its squared distance, weighted if asked, or an upper bound of it from
    the picks it has been compared with; -1 once it is picked.
    """

    features: Tensor  # [N, D] as the caller has them

    @property
    def count(self) -> int:
        """Picks appended."""

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `resolve`; they are never candidates again."""

    def edge(self, wanted: int) -> float:
        """The wanted-th largest key; 0.0 where there are not that many rows."""

    def refresh(self, rows: Tensor | None) -> int:
        """Compare these rows (all if None) with every pick they have not seen; returns the distances computed."""

    def reach(self, edge: float, most: int) -> Reached:
        """Bring up to date the rows not picked whose key reaches the edge, and say which of them still do."""

    def settle_all(self) -> int:
        """Make every bound exact; returns how many were not."""

    def resolve(self, rows: Tensor, outside: Rank | None, quota: int, block: int) -> Picks:
        """Append and return the next picks among `rows` [C] (ascending, refreshed), in the order of plain greedy.

        Stops where the next pick may rank behind `outside` (the best that a row elsewhere can be; None: nothing is
        elsewhere) or after `quota`. `block` candidates are considered at a time; it changes the speed only.
        """


@dataclass(frozen=True)
class Backend:
    """One set of leaf kernels. `refuse` gives the reason why it cannot run on a device, or None if it can."""

    name: str
    refuse: Callable[[torch.device], str | None]
    # (public name, features [N, D], starting squared distances [N] float64, owned, squared weights [N] or None,
    #  most picks, tuning) -> leaves
    k_center: Callable[[str, Tensor, Tensor, Tensor | None, int, Tuning], KCenterLeaves]
    # (query [Q, D], bank [M, D], k) -> canonical squared distances [Q, k] float64 ascending, rows [Q, k] int64
    knn: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    about: Callable[[], str]  # one line for explain_backends()
