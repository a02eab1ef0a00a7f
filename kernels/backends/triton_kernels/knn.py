"""Exact k nearest neighbours on the device: search, reach, settle, rescue, rank; one launch each per piece."""

from __future__ import annotations

import functools
import logging

import torch
import triton
from torch import Tensor

from ...tuning import Budget
from ..device.launch import captured
from ..device.twins import surplus_twins
from .frame import DeviceFrame, choose_frame, pack
from .launch import capability, on_device
from .neighbours import rank_kernel, reach_kernel, settle_kernel
from .plan import CROWDED, Plan, make_plan, memory_limit
from .precision import Arithmetic, choose_arithmetic
from .primitives import canonical_columns
from .rescue import merge_kernel, rescue_kernel
from .search import search_kernel

_log = logging.getLogger("patchcore_fast.kernels")
_PAIRS = 16  # settled by one program
_RANKED = 4096  # comparisons in one program
_FEW = 32  # crowded queries up to which looking for equal bank rows costs more than it saves


def knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    """query [Q, D], bank [M, D], k up to plan.MOST_NEIGHBOURS -> squared [Q, k] float64 ascending, rows [Q, k] int64.

    While a CUDA graph is captured nothing waits for the host: values are not checked (where some are not finite,
    distances and rows mean nothing, but rows are valid), and equal bank rows are not thinned out.

    Raises
    ------
    ValueError : rows that are not finite.  torch.OutOfMemoryError : also after the pieces were made smaller.
    """
    with on_device(query.device):
        unchecked = captured(query.device)
        arithmetic = choose_arithmetic(budget.precision, capability(query.device), query.shape[1])
        frame = choose_frame("knn", arithmetic, not unchecked, bank=bank, query=query)
        search = Search(query, bank, k, frame, arithmetic, unchecked)
        limit = memory_limit(budget.memory_limit, query.device)
        try:
            return search.run(search.plan(limit))
        except torch.OutOfMemoryError:
            _log.debug("knn: out of memory with a limit of %d bytes, now %d", limit, limit // 4)
        return search.run(search.plan(limit // 4))


@functools.lru_cache(maxsize=32)
def columns_of(dim: int, device: torch.device) -> Tensor:
    """primitives.canonical_columns, made once: its copy to the device cannot be part of a graph."""
    return canonical_columns(dim, device)


class Search:
    """One call of `knn`."""

    def __init__(
        self, query: Tensor, bank: Tensor, k: int, frame: DeviceFrame, arithmetic: Arithmetic, captured: bool
    ) -> None:
        self.query, self.bank, self.k = query, bank, k
        self.frame, self.mode, self.captured = frame, arithmetic.mode, captured
        self.columns = columns_of(query.shape[1], query.device)
        leaf = self.columns.shape[1]
        self.leaf = {"L": leaf, "STEPS": leaf.bit_length() - 1}
        self.row_type = torch.int32 if bank.shape[0] < 1 << 31 else torch.int64
        self.far = torch.iinfo(self.row_type).max
        self.norm = self._empty(torch.float32, bank.shape[0])
        self._surplus: Tensor | None = None
        self._packed_whole = False

    def plan(self, limit: int) -> Plan:
        """Sizes for this call in `limit` bytes."""
        (queries, dim), rows = self.query.shape, self.bank.shape[0]
        return make_plan(queries, rows, dim, self.k, self.mode, self.query.device, limit)

    def run(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """The neighbours of all queries."""
        shape = self.query.shape[0], self.k
        self._packed_whole = False
        squared = self._empty(torch.float64, *shape)
        rows = self._empty(torch.int64, *shape)
        if self.captured:  # unchecked values might leave places unwritten
            squared.fill_(torch.nan)
            rows.zero_()
        self.packed = self._empty(torch.float32, plan.queries, plan.pitch)
        self.packed_norm = self._empty(torch.float32, plan.queries)
        self.packed_bank = self._empty(torch.float32, plan.bank, plan.pitch)
        self.value = self._empty(torch.float32, plan.splits, plan.queries, plan.slots)
        self.row = self._empty(self.row_type, plan.splits, plan.queries, plan.slots)
        self.exact = self._empty(torch.float64, plan.queries, plan.slots)
        self.reach = self._empty(torch.float64, plan.queries)
        self.crowded = self._empty(torch.int64, plan.queries)
        self.count = self._empty(torch.int32, 1)
        for lo in range(0, shape[0], plan.queries):
            part = slice(lo, lo + plan.queries)
            self._some(plan, self.query[part], squared[part], rows[part])
        return squared, rows

    def _empty(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.query.device)

    def _some(self, plan: Plan, query: Tensor, squared: Tensor, rows: Tensor) -> None:
        queries, bank = query.shape[0], self.bank
        pack(query, self.frame, self.packed_norm, self.packed)
        for lo in range(0, bank.shape[0], plan.bank):
            self._search(plan, queries, lo, min(plan.bank, bank.shape[0] - lo))
        self.count.zero_()
        ranked = max(1, min(64, _RANKED // plan.slots**2))
        reach_kernel[(triton.cdiv(queries, ranked),)](
            self.value, self.row, self.packed_norm, self.frame.params, self.reach, self.crowded, self.count, queries,
            plan.splits, self.k, bank.shape[0], S=plan.slots, FAR=self.far, R=ranked, num_warps=8,
            enable_fp_fusion=False,
        )  # fmt: skip
        pairs = queries * plan.slots
        settle_kernel[(triton.cdiv(pairs, _PAIRS),)](
            query, *query.stride(), bank, *bank.stride(), self.row, self.exact, pairs, self.columns,
            self.columns.shape[0], S=plan.slots, R=_PAIRS, **self.leaf, enable_fp_fusion=False,
        )  # fmt: skip
        # Outside of a graph the host may ask: no crowded query, no launch.
        crowded = queries if self.captured else int(self.count)
        if crowded:
            self._rescue(plan, query, crowded)
        rank_kernel[(triton.cdiv(queries, ranked),)](
            self.exact, self.row, squared, rows, queries, self.k, S=plan.slots, R=ranked, num_warps=8,
            enable_fp_fusion=False,
        )  # fmt: skip

    def _search(self, plan: Plan, queries: int, lo: int, rows: int) -> None:
        tile, whole = plan.tile, plan.bank == self.bank.shape[0]
        if not whole or not self._packed_whole:
            pack(self.bank[lo : lo + rows], self.frame, self.norm[lo : lo + rows], self.packed_bank)
            self._packed_whole = whole
        span = triton.cdiv(triton.cdiv(rows, tile.others), plan.splits) * tile.others
        search_kernel[(triton.cdiv(queries, tile.rows), plan.splits)](
            self.packed, self.packed_bank, self.norm, self.value, self.row, queries, plan.pitch, lo, rows, span,
            S=plan.slots, FAR=self.far, RESIDENT=tile.depth >= plan.pitch, M=tile.rows, N=tile.others, K=tile.depth,
            MODE=self.mode, num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip

    def _rescue(self, plan: Plan, query: Tensor, crowded: int) -> None:
        if self._surplus is None and crowded > _FEW and not self.captured:
            self._surplus = surplus_twins(self.bank, self.k)
        part_exact = self._empty(torch.float64, plan.rescuers, CROWDED, plan.slots)
        part_row = self._empty(self.row_type, plan.rescuers, CROWDED, plan.slots)
        shape = {"S": plan.slots, "FAR": self.far, "M": CROWDED, "N": min(64, plan.tile.others)}
        rescue_kernel[(plan.rescuers,)](
            self.packed, plan.pitch, query, *query.stride(), self.bank, *self.bank.stride(), *self.bank.shape,
            self.packed_norm, self.norm, self.frame.centre, self.frame.params, self.reach, self.crowded, self.count,
            self.norm if self._surplus is None else self._surplus, self.exact, self.row, part_exact, part_row, self.k,
            self.columns, self.columns.shape[0], THINNED=self._surplus is not None, K=min(32, plan.tile.depth),
            MODE=self.mode, **shape, **self.leaf, num_stages=1, enable_fp_fusion=False,
        )  # fmt: skip
        merge_kernel[(plan.rescuers,)](
            self.crowded, self.count, self.bank.shape[0], part_exact, part_row, self.exact, self.row, **shape,
            enable_fp_fusion=False,
        )  # fmt: skip
