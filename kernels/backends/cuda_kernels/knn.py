"""The k-NN driver of ../device with the CUDA kernels: one call into the native module a piece of queries, and one where
queries are crowded."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from ...tuning import Budget
from ..device.knn import DeviceSearch, Piece, Shapes, search
from ..device.plan import CROWDED, Needs, Plan
from ..native_rows import addressable, describe
from ..torch_backend import TORCH
from .frame import choose_frame, multiplied_as_they_are
from .library import capability, describe_array, library, load_search, ordinal, stream
from .precision import choose_arithmetic, in_place

_log = logging.getLogger("patchcore_fast.kernels")
# The kernels' own (csrc/cuda/knn.h, tile_inner.h; tests/cuda compares them).
MOST_ROWS = (1 << 32) - 1  # of a bank: row numbers are uint32
TILE = 128  # queries that a block takes at a time; bank rows come in tiles of half as many
ALIGNED = 8  # words of packed rows, of 4 bytes, are a multiple
_SPLIT_ROWS, _MOST_SPLITS = 512, 64
_ALIGNMENT = 256  # bytes: where arrays in the workspace begin


def knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    """See device.knn.search. Banks of MOST_ROWS rows or more are searched by torch's matrix products."""
    if bank.shape[0] >= MOST_ROWS:
        _log.debug("knn: %d bank rows are more than the CUDA kernels count: on torch's matrix products", bank.shape[0])
        return TORCH.knn(query, bank, k, budget)
    return search(CudaSearch, addressable(query), addressable(bank), k, budget)


class CudaSearch(DeviceSearch):
    """One call of `knn`. The kernels are given addresses: the tensors behind them live as long as this object."""

    def _prepare(self) -> None:
        device = self.query.device
        if not self.captured:
            load_search(device)
        self.library: Any = library(device)
        # The expanded form: half as many instructions as the difference form.
        precision, dim = self.budget.precision, self.query.shape[1]
        arithmetic = choose_arithmetic(precision, capability(device), dim, "ieee")
        rows = {"bank": self.bank, "query": self.query}
        halves = not self.captured and multiplied_as_they_are(precision, *rows.values())
        self.frame = choose_frame("knn", arithmetic, not self.captured, halves, None, **rows)
        self.arithmetic = self.frame.arithmetic
        self.in_place = {name: self._lies_packed(x) for name, x in rows.items()}

    def _lies_packed(self, x: Tensor) -> bool:
        """Whether tiles may read the rows as they are (lies_packed in csrc/cuda/knn.h)."""
        of_type = x.dtype == torch.float32 or self.arithmetic.mode == "half"
        ends = x.shape[1] % (ALIGNED * self._of_a_word()) == 0
        return self.frame.unchanged and of_type and ends and in_place(x) and x.stride(0) < 1 << 31

    def _needs(self) -> Needs:
        a_word = self._of_a_word()
        return Needs(
            TILE, TILE, ALIGNED * a_word, _SPLIT_ROWS, _MOST_SPLITS, query=0, slot=8, part=12 * self.k,
            value=4 // a_word,
        )  # fmt: skip

    def _of_a_word(self) -> int:
        """Columns in 4 bytes of a packed row: halves stay what they are."""
        return 2 if self.arithmetic.mode == "half" else 1

    def _scratch(self, plan: Plan) -> Shapes:
        words = plan.pitch // self._of_a_word()
        packed = {"query": plan.queries, "bank": plan.bank}
        queries, bank = (0 if self.in_place[name] else rows for name, rows in packed.items())
        return {
            "packed": (torch.float32, (queries, words)),
            "packed_norm": (torch.float32, (plan.queries,)),
            "packed_bank": (torch.float32, (bank, words)),
            "kept": (torch.int64, (plan.splits, plan.queries, plan.slots)),
            "reach": (torch.float64, (plan.queries,)),
            "crowded": (torch.int64, (plan.queries,)),
            "part_exact": (torch.float64, (plan.rescuers, CROWDED, self.k)),
            "part_row": (torch.int32, (plan.rescuers, CROWDED, self.k)),
        }

    def _allocate(self, plan: Plan) -> None:
        """One tensor for all: one for each array would take the host longer than a launch."""
        arrays, end = {}, 0
        for name, (dtype, shape) in self._scratch(plan).items():
            count = math.prod(shape)
            arrays[name] = (end, str(dtype).removeprefix("torch."), count)
            end += -(-count * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        workspace = self._empty(torch.int64, end // 8)
        self.buffers = {"workspace": workspace}
        start = workspace.data_ptr()
        own = {"norm": self.norm, "count": self.count, "centre": self.frame.centre, "params": self.frame.params}
        self._native = self.library.KnnSearch(
            bank=describe(self.bank), k=self.k, slots=plan.slots, pitch=plan.pitch // self._of_a_word(),
            queries=plan.queries, chunk=plan.bank, splits=plan.splits, rescuers=plan.rescuers,
            mode=self.arithmetic.mode, device=ordinal(self.query.device),
            **{f"{name}_in_place": lies for name, lies in self.in_place.items()},
            **{name: describe_array(x) for name, x in own.items()},
            **{name: (start + place, *rest) for name, (place, *rest) in arrays.items()},
        )  # fmt: skip

    def _some(self, plan: Plan, piece: Piece, packed: bool) -> None:
        self._native.some(*_addresses(piece), packed_already=packed, stream=stream(self.query.device))

    def _settle_crowded(self, plan: Plan, piece: Piece) -> None:
        surplus = 0 if self.surplus is None else self.surplus.data_ptr()
        self._native.rescue(*_addresses(piece), surplus=surplus, stream=stream(self.query.device))

    def _finish(self, plan: Plan, piece: Piece) -> None:
        pass  # what settles queries ranks them


def _addresses(piece: Piece) -> tuple[Any, int, int]:
    return describe(piece.query), piece.squared.data_ptr(), piece.rows.data_ptr()
