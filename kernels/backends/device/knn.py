"""Exact k nearest neighbours on a device: pieces of queries against pieces of the bank, then crowded queries.

The driver is here, once; a backend gives the kernels by overriding the hooks of DeviceSearch.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ...tuning import Budget
from .frame import DeviceFrame
from .launch import captured, on_device, processors
from .memory import ENOUGH, UNASKED, memory_limit
from .plan import Needs, Plan, make_plan, slots_of
from .precision import Arithmetic
from .twins import surplus_twins

_log = logging.getLogger("patchcore_fast.kernels")
_FEW = 32  # crowded queries up to which looking for equal bank rows costs more than it saves
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class Piece(NamedTuple):
    """Queries that are searched for at once, and where their neighbours go."""

    query: Tensor  # [Q, D]
    squared: Tensor  # [Q, k] float64
    rows: Tensor  # [Q, k] int64


def search(kind: type[DeviceSearch], query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    """query [Q, D], bank [M, D], k up to plan.MOST_NEIGHBOURS -> squared [Q, k] float64 ascending, rows [Q, k] int64.

    While a CUDA graph is captured nothing waits for the host: values are not checked (where some are not finite,
    distances and rows mean nothing, but rows are valid), and equal bank rows are not thinned out.

    Raises
    ------
    ValueError : rows that are not finite.  torch.OutOfMemoryError : also after the pieces were made smaller.
    RuntimeError : a kernel could not be launched.
    """
    with on_device(query.device):
        return kind(query, bank, k, budget).neighbours()


class DeviceSearch(ABC):
    """One call of `search`. All memory is allocated before the first piece, but for what many crowded queries take.

    A backend overrides `_prepare`, `_needs`, `_scratch`, `_some`, `_settle_crowded` and `_finish`, and `_allocate`
    where its kernels take memory otherwise.
    """

    # What `_prepare` sets.
    arithmetic: Arithmetic
    frame: DeviceFrame

    def __init__(self, query: Tensor, bank: Tensor, k: int, budget: Budget) -> None:
        self.query, self.bank, self.k, self.budget = query, bank, k, budget
        self.captured, self.slots = captured(query.device), slots_of(k)
        self._prepare()
        self.norm = self._empty(torch.float32, bank.shape[0])  # squared norms in the frame
        self.count = self._empty(torch.int32, 1)  # crowded queries of a piece
        self.buffers: dict[str, Tensor] = {}  # see _scratch
        self.surplus: Tensor | None = None  # see twins.surplus_twins, where it was worth a look

    @abstractmethod
    def _prepare(self) -> None:
        """Set what is declared above. The device is current."""

    @abstractmethod
    def _needs(self) -> Needs:
        """What the plan must know of the kernels."""

    @abstractmethod
    def _scratch(self, plan: Plan) -> Shapes:
        """What the kernels hand to each other, by name."""

    @abstractmethod
    def _some(self, plan: Plan, piece: Piece, packed: bool) -> None:
        """Search the bank for a piece and settle all but crowded queries, whose number goes to `count`.

        `packed`: an earlier piece has packed the bank, all of it.
        """

    @abstractmethod
    def _settle_crowded(self, plan: Plan, piece: Piece) -> None:
        """Exact distances of crowded queries; rows that `surplus` marks may be left out."""

    @abstractmethod
    def _finish(self, plan: Plan, piece: Piece) -> None:
        """What is left to do when all queries of a piece are settled."""

    def _allocate(self, plan: Plan) -> None:
        self.buffers = {name: self._empty(dtype, *shape) for name, (dtype, shape) in self._scratch(plan).items()}

    def neighbours(self) -> tuple[Tensor, Tensor]:
        """Squared distances and rows of all queries; with smaller pieces, once, where the device has less memory."""
        asked, device = self.budget.memory_limit, self.query.device
        plan = self.plan(ENOUGH if asked is None else asked)
        if asked is None and self.bytes(plan) > UNASKED:
            plan = self.plan(memory_limit(device))
        try:
            return self.run(plan)
        except torch.OutOfMemoryError:
            pass  # what the error holds on to goes with it
        self.buffers = {}  # what was allocated makes room for the second try
        limit = self.bytes(plan) // 4
        if asked is None:
            limit = min(limit, memory_limit(device))
        _log.debug("knn: out of memory with pieces of %d bytes, now %d", self.bytes(plan), limit)
        return self.run(self.plan(limit))

    def plan(self, limit: int) -> Plan:
        """Sizes for this call in `limit` bytes."""
        (queries, dim), rows = self.query.shape, self.bank.shape[0]
        return make_plan(queries, rows, dim, self.k, processors(self.query.device), limit, self._needs())

    def bytes(self, plan: Plan) -> int:
        """Device memory held beyond arguments, results and 4 bytes a bank row."""
        return sum(math.prod(shape) * dtype.itemsize for dtype, shape in self._scratch(plan).values())

    def run(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """The neighbours of all queries, by this plan."""
        queries = self.query.shape[0]
        squared, rows = self._empty(torch.float64, queries, self.k), self._empty(torch.int64, queries, self.k)
        if self.captured:  # unchecked values might leave places unwritten
            squared.fill_(torch.nan)
            rows.zero_()
        self._allocate(plan)
        whole = Piece(self.query, squared, rows)
        for lo in range(0, queries, plan.queries):
            piece = whole
            if plan.queries < queries:
                piece = Piece(*(x[lo : lo + plan.queries] for x in whole))
            self._some(plan, piece, packed=lo > 0 and plan.bank == self.bank.shape[0])
            # Outside of a graph the host may ask: no crowded query, no launch.
            crowded = piece.query.shape[0] if self.captured else int(self.count)
            if crowded:
                self._rescue(plan, piece, crowded)
            self._finish(plan, piece)
        return squared, rows

    def _rescue(self, plan: Plan, piece: Piece, crowded: int) -> None:
        if self.surplus is None and crowded > _FEW and not self.captured:
            self.surplus = surplus_twins(self.bank, self.k)
        self._settle_crowded(plan, piece)

    def _empty(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.query.device)
