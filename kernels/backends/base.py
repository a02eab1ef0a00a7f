"""What a backend must provide. The drivers know nothing else of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..ranking import Picks
from ..tuning import Budget, Tuning


@dataclass(frozen=True)
class KCenterJob:
    """What `k_center_greedy` asks of a backend, checked."""

    name: str  # public function, for error messages
    features: Tensor  # [N, D] as the caller has them
    initial: Tensor  # [N] float64 starting squared distances; the backend may overwrite them
    weight: Tensor | None  # [N] float64 squared weights
    given: int  # picks made before, which `append` will bring
    k: int  # picks to make
    tuning: Tuning
    budget: Budget


class KCenterLeaves(Protocol):
    """Rows [N, D], the picks made so far, and what is known of each row's distance to the nearest of them."""

    features: Tensor  # [N, D] as the caller has them
    distances: int  # row-to-pick distances computed in refreshing rows

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `advance`; they are never picked again."""

    def advance(self, quota: int) -> Picks:
        """One pass: the next picks in the order of plain greedy, at most `quota`, appended.

        It may find none, but then knows more than before: passes end.
        """


@dataclass(frozen=True)
class Backend:
    """One set of leaf kernels. `refuse` gives the reason why it cannot run on a device, or None if it can."""

    name: str
    refuse: Callable[[torch.device], str | None]
    k_center: Callable[[KCenterJob], KCenterLeaves]
    # (query [Q, D], bank [M, D], k, budget) -> canonical squared distances [Q, k] float64 ascending, rows [Q, k] int64
    knn: Callable[[Tensor, Tensor, int, Budget], tuple[Tensor, Tensor]]
    about: Callable[[], str]  # one line for explain_backends()
    # Whether "auto" may take it on a device that it does not refuse: an interpreter runs, but for tests only.
    automatic: Callable[[torch.device], bool] = lambda device: True
