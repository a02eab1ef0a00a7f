"""The k-center driver of ../device with the CUDA kernels: a pass is one call into the native module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..device.kcenter import DeviceKCenter, aligned
from ..device.launch import processors
from ..device.memory import free_memory
from ..device.precision import Arithmetic
from ..native_rows import describe
from .frame import choose_frame, multiplied_as_they_are, pack
from .library import capability, describe_array, library, ordinal, stream
from .precision import choose_arithmetic, in_place


class CudaKCenter(DeviceKCenter):
    """See base.KCenterLeaves for the contract, DeviceKCenter for the memory.

    Rows that the update cannot read as they lie, or that the frame changes, are copied once, in the frame, if there is
    memory: else every pass brings them there again, value by value.
    """

    called = "the CUDA backend"
    copied: torch.dtype | None = None  # of the copy; None: the features are read as they are

    def _prepare(self) -> None:
        x, job = self.features, self.job
        self.library: Any = library(x.device)
        precision = job.budget.precision
        self.arithmetic = choose_arithmetic(precision, capability(x.device), x.shape[1])
        told = self.library.kcenter_sizes(x.shape[0], processors(x.device))
        self.parts, self.tile_rows, self._rows_of_one = told["parts"], told["tile_rows"], told["span"]
        lies = in_place(x)
        halves = multiplied_as_they_are(precision, x) and (lies or self._affords(x.dtype))
        self.frame = choose_frame(job.name, self.arithmetic, True, halves, self.others, features=x)
        if self.frame.arithmetic.mode == "ieee" and not self.frame.unchanged and not self._affords(torch.float32):
            # The difference form needs no centre, so the rows may be read as they are after all.
            self.frame = choose_frame(job.name, Arithmetic("ffma"), True, others=self.others, features=x)
        self.arithmetic = self.frame.arithmetic
        read = lies and self.frame.unchanged and x.dtype != torch.float64
        if not read and (self.arithmetic.mode == "half" or self._affords(torch.float32)):
            self.copied = self._kept()
        self._tried = False  # whether memory has been asked for

    def _span(self) -> int:
        return self._rows_of_one

    def _copy_bytes(self, dtype: torch.dtype) -> int:
        return self.features.shape[0] * aligned(self.features.shape[1]) * dtype.itemsize

    def _affords(self, dtype: torch.dtype) -> bool:
        """Whether a copy of the rows leaves room for all else, with the block that is asked for."""
        limit, device = self.job.budget.memory_limit, self.features.device
        if limit is None:
            return self._copy_bytes(dtype) <= free_memory(device) // 2
        return self.bytes(self._asked()) + self._copy_bytes(dtype) <= limit

    def bytes(self, block: int) -> int:
        return super().bytes(block) + (0 if self.copied is None else self._copy_bytes(self.copied))

    def _buffers(self, block: int) -> None:
        job, x = self.job, self.features
        rows = x
        if self._tried and self.arithmetic.mode != "half":
            self.copied = None  # a second try has less memory than was thought: rows can be read as they are
        self._tried = True
        if self.copied is not None:
            rows = self.copy = torch.empty(x.shape[0], aligned(x.shape[1]), dtype=self.copied, device=x.device)
        super()._buffers(block)
        held = {**vars(self), **vars(self.frame), "initial": job.initial}
        arrays = {name: describe_array(held[name]) for name in self.library.kcenter_arrays()}
        self._pass_of = self.library.KCenterPass(
            x=describe(x), rows=describe(rows), picked_from=describe(self.picked_from), mode=self.arithmetic.mode,
            tracked=self.tracked, plain=self.plain or self.copied is not None, has_initial=self.initial,
            weighted=self.weighted, eager=not job.tuning.lazy, block=block, room=self.room, listed=self.listed,
            target=self.target, processors=processors(x.device), parts=self.parts, span=self.span,
            capacity=job.given + job.k, pitch=self.picks.shape[1], picks=describe_array(self.picks), **arrays,
        )  # fmt: skip

    def _pack(
        self, x: Tensor, norm: Tensor, out: Tensor | None = None, rows: Tensor | None = None, first: int = 0
    ) -> None:
        if rows is None and self.copied is not None:
            out = self.copy
        pack(x, self.frame, norm, out, rows, first)

    def _enqueue(self, levels: int) -> None:
        device = self.features.device
        self.library.kcenter_pass(self._pass_of, levels, device=ordinal(device), stream=stream(device))

    def _refresh_all(self) -> None:
        device = self.features.device
        self.library.kcenter_refresh_all(self._pass_of, device=ordinal(device), stream=stream(device))

    def _refresh_listed(self) -> None:
        device = self.features.device
        self.library.kcenter_refresh_listed(self._pass_of, device=ordinal(device), stream=stream(device))

    def _settle_listed(self) -> None:
        device = self.features.device
        self.library.kcenter_settle_listed(self._pass_of, device=ordinal(device), stream=stream(device))
