"""What a backend must provide. The drivers know nothing else of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..ranking import Rank
from ..together import Together
from ..tuning import Budget, Tuning

PATIENCE = 8  # passes without a pick after which all bounds are made exact


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
    started: bool = True  # whether a starting distance may be finite


@dataclass(frozen=True)
class Found:
    """What `advance` has picked, on the device of the features, and in how many passes over the rows."""

    rows: Tensor  # [P] int64, in the order of plain greedy
    squared: Tensor  # [P] float64 squared distances at selection
    passes: int


class KCenterLeaves(Protocol):
    """Rows [N, D], the picks made so far, and what is known of each row's distance to the nearest of them."""

    features: Tensor  # [N, D] as the caller has them
    distances: int  # row-to-pick distances computed in refreshing rows

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `advance`; they are never picked again."""

    def advance(self, quota: int) -> Found:
        """A pass, or some: the next picks in the order of plain greedy, at most `quota`, appended.

        It may find none, but then knows more than before: passes end.
        """

    def state(self) -> str:
        """What the passes so far have left behind, for the message of one that does not end."""


@dataclass(frozen=True)
class Settled:
    """Candidates of one rank: rows whose key reaches an edge, with their true distances."""

    rows: Tensor  # [C] int64 ascending, on the CPU; where there are more than asked for, the first in rank
    squared: Tensor  # [C] float64 on the CPU, canonical squared distances to the nearest pick
    inside: int  # how many reach the edge
    rest: Rank | None  # the best that one of those left out can be, None if none was
    distances: int  # computed on the way


class ShardLeaves(Protocol):
    """The rows [N, D] of one rank among others: picks are made elsewhere, of all ranks' rows, and come here as rows.

    The key of a row is what greedy maximises: see stepwise.KCenterSteps.
    """

    def key(self) -> Tensor:
        """[N] float64: of every row, as far as it is known; -1 once it is picked."""

    def append_guests(self, rows: Tensor, own: Tensor) -> None:
        """Add picks: rows [B, D] of the features' type, own [B] int64 their numbers here, -1 of another rank's."""

    def refresh(self, rows: Tensor | None) -> int:
        """Compare these rows (all if None) with every pick they have not seen; returns the distances computed."""

    def reach_settled(self, edge: float, most: int) -> Settled:
        """Bring up to date the rows not picked whose key reaches the edge; of those that still do, true distances."""

    def settle_all(self) -> int:
        """Make every bound exact; returns how many were not."""


@dataclass
class Work:
    """Pairs of a query and a bank row in the searches of a prepared bank, and how they were looked at."""

    pairs: int = 0  # there were
    full: int = 0  # in all columns
    short: int = 0  # along a few directions
    settled: int = 0  # in float64, of what short rows left


class PreparedRows(Protocol):
    """A bank [M, D] made ready for many searches."""

    columns: int  # of its short rows, 0 where it has none
    work: Work

    @property
    def nbytes(self) -> int:
        """Held beside the bank."""

    def knn(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As Backend.knn."""


class AsItIs:
    """A bank that nothing is made ready of: each search begins anew."""

    nbytes = columns = 0

    def __init__(self, bank: Tensor, search: Callable[[Tensor, Tensor, int, Budget], tuple[Tensor, Tensor]]) -> None:
        self._bank, self._search, self.work = bank, search, Work()

    def knn(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As Backend.knn."""
        self.work.pairs += query.shape[0] * self._bank.shape[0]
        self.work.full = self.work.pairs
        return self._search(query, self._bank, k, Budget())


@dataclass(frozen=True)
class Backend:
    """One set of leaf kernels. `refuse` gives the reason why it cannot run on a device, or None if it can."""

    name: str
    refuse: Callable[[torch.device], str | None]
    k_center: Callable[[KCenterJob], KCenterLeaves]
    # The leaves of one rank of a group, None for one without rows. All ranks call it.
    shard: Callable[[KCenterJob, Together], ShardLeaves | None]
    # (query [Q, D], bank [M, D], k, budget) -> canonical squared distances [Q, k] float64 ascending, rows [Q, k] int64
    knn: Callable[[Tensor, Tensor, int, Budget], tuple[Tensor, Tensor]]
    about: Callable[[], str]  # one line for explain_backends()
    # Whether "auto" may take it on a device that it does not refuse: an interpreter runs, but for tests only.
    automatic: Callable[[torch.device], bool] = lambda device: True
    # Whether its code is made for the cards of this device's generation: asked where "auto" has a choice.
    tailored: Callable[[torch.device], bool] = lambda device: True
    # What explain_backends() adds for a device that it does not refuse: "", or what does not run there as it should.
    remark: Callable[[torch.device], str] = lambda device: ""
    # (bank [M, D], prune as `prepare` has it) -> the bank made ready; None: there is nothing to make, see `ready`.
    prepare: Callable[[Tensor, str], PreparedRows] | None = None

    def ready(self, bank: Tensor, prune: str) -> PreparedRows:
        """A bank for many searches."""
        return AsItIs(bank, self.knn) if self.prepare is None else self.prepare(bank, prune)
