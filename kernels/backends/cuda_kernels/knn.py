"""Exact k nearest neighbours by the CUDA kernels: one call into the native module a piece of queries, and one where
queries are crowded."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ...tuning import Budget
from ..device.frame import DeviceFrame
from ..device.launch import captured, on_device, processors
from ..device.memory import memory_limit
from ..device.precision import Arithmetic
from ..device.twins import surplus_twins
from ..native_backend import addressable, describe
from ..torch_backend import TORCH
from .frame import choose_frame
from .library import capability, library, load_search, ordinal, stream
from .plan import CROWDED, MOST_ROWS, Plan, make_plan
from .precision import choose_arithmetic

_log = logging.getLogger("patchcore_fast.kernels")
_FEW = 32  # crowded queries up to which looking for equal bank rows costs more than it saves


def knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    """query [Q, D], bank [M, D], k up to plan.MOST_NEIGHBOURS -> squared [Q, k] float64 ascending, rows [Q, k] int64.

    While a CUDA graph is captured nothing waits for the host: values are not checked (where some are not finite,
    distances and rows mean nothing, but rows are valid), and equal bank rows are not thinned out. Banks of
    plan.MOST_ROWS rows or more are searched by torch's matrix products.

    Raises
    ------
    ValueError : rows that are not finite.  torch.OutOfMemoryError : also after the pieces were made smaller.
    RuntimeError : a kernel could not be launched; the message names it and CUDA's reason.
    """
    if bank.shape[0] >= MOST_ROWS:
        _log.debug("knn: %d bank rows are more than the CUDA kernels count: on torch's matrix products", bank.shape[0])
        return TORCH.knn(query, bank, k, budget)
    query, bank = addressable(query), addressable(bank)
    with on_device(query.device):
        unchecked = captured(query.device)
        if not unchecked:
            load_search(query.device)
        # The expanded form: half as many instructions as the difference form.
        arithmetic = choose_arithmetic(budget.precision, capability(query.device), query.shape[1], "ieee")
        frame = choose_frame("knn", arithmetic, not unchecked, bank=bank, query=query)
        search = Search(query, bank, k, frame, arithmetic, unchecked)
        limit = memory_limit(budget.memory_limit, query.device)
        try:
            return search.run(search.plan(limit))
        except torch.OutOfMemoryError:
            _log.debug("knn: out of memory with a limit of %d bytes, now %d", limit, limit // 4)
        search.buffers = {}  # what was allocated makes room for the second try
        return search.run(search.plan(limit // 4))


class Search:
    """One call of `knn`. The kernels are given addresses: the tensors behind them live as long as this object."""

    def __init__(
        self, query: Tensor, bank: Tensor, k: int, frame: DeviceFrame, arithmetic: Arithmetic, captured: bool
    ) -> None:
        self.query, self.bank, self.k = query, bank, k
        self.frame, self.mode, self.captured = frame, arithmetic.mode, captured
        self.norm = self._empty(torch.float32, bank.shape[0])
        self.library: Any = library(query.device)
        self.buffers: dict[str, Tensor] = {}
        self._surplus: Tensor | None = None

    def plan(self, limit: int) -> Plan:
        """Sizes for this call in `limit` bytes."""
        (queries, dim), rows = self.query.shape, self.bank.shape[0]
        return make_plan(queries, rows, dim, self.k, processors(self.query.device), limit)

    def run(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """The neighbours of all queries."""
        shape = self.query.shape[0], self.k
        squared = self._empty(torch.float64, *shape)
        rows = self._empty(torch.int64, *shape)
        if self.captured:  # unchecked values might leave places unwritten
            squared.fill_(torch.nan)
            rows.zero_()
        self.buffers = self._buffers(plan)
        addresses = {name: buffer.data_ptr() for name, buffer in self.buffers.items()}
        search = self.library.KnnSearch(
            bank=describe(self.bank), k=self.k, slots=plan.slots, pitch=plan.pitch, queries=plan.queries,
            chunk=plan.bank, splits=plan.splits, rescuers=plan.rescuers, tensor_cores=self.mode == "tf32x3",
            centre=self.frame.centre.data_ptr(), params=self.frame.params.data_ptr(), norm=self.norm.data_ptr(),
            device=ordinal(self.query.device), **addresses,
        )  # fmt: skip
        for lo in range(0, shape[0], plan.queries):
            part = slice(lo, lo + plan.queries)
            self._some(search, plan, self.query[part], squared[part], rows[part], lo > 0)
        return squared, rows

    def _buffers(self, plan: Plan) -> dict[str, Tensor]:
        """What the kernels hand to each other, by the names that csrc/cuda/knn.h has."""
        return {
            "packed": self._empty(torch.float32, plan.queries, plan.pitch),
            "packed_norm": self._empty(torch.float32, plan.queries),
            "packed_bank": self._empty(torch.float32, plan.bank, plan.pitch),
            "kept": self._empty(torch.int64, plan.splits, plan.queries, plan.slots),
            "reach": self._empty(torch.float64, plan.queries),
            "crowded": self._empty(torch.int64, plan.queries),
            "count": self._empty(torch.int32, 1),
            "part_exact": self._empty(torch.float64, plan.rescuers, CROWDED, self.k),
            "part_row": self._empty(torch.int32, plan.rescuers, CROWDED, self.k),
        }

    def _empty(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.query.device)

    def _some(self, search: Any, plan: Plan, query: Tensor, squared: Tensor, rows: Tensor, again: bool) -> None:
        whole = plan.bank == self.bank.shape[0]  # then it stays packed
        piece = describe(query), squared.data_ptr(), rows.data_ptr()
        search.some(*piece, packed_already=again and whole, stream=stream(query.device))
        # Outside of a graph the host may ask: no crowded query, no launch.
        crowded = query.shape[0] if self.captured else int(self.buffers["count"])
        if crowded:
            self._rescue(search, piece, crowded)

    def _rescue(self, search: Any, piece: tuple[Any, ...], crowded: int) -> None:
        if self._surplus is None and crowded > _FEW and not self.captured:
            self._surplus = surplus_twins(self.bank, self.k)
        surplus = 0 if self._surplus is None else self._surplus.data_ptr()
        search.rescue(*piece, surplus=surplus, stream=stream(self.query.device))
