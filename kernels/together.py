"""What the ranks of a process group agree upon before each works on its own rows. `ranks.group.Ranks` does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

_T = TypeVar("_T")


class Together(Protocol):
    """All ranks make the same calls in the same order, those without rows too."""

    def agree(self, work: Callable[[], _T]) -> _T:
        """What `work` returns here; where it fails on any rank, an error on all."""

    def most(self, value: float) -> float:
        """The largest of the ranks' values."""

    def gather(self, rows: Tensor) -> Tensor:
        """The rows [R_r, ...] of all ranks, in the order of ranks, on the CPU."""
