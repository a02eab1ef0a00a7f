"""The k-center driver of ../device with the CUDA kernels: a pass is one call into the native module."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..device.kcenter import DeviceKCenter
from ..device.launch import processors
from ..native_backend import describe
from .frame import choose_frame, pack
from .library import capability, library, ordinal, stream
from .precision import choose_arithmetic

# Of whole arrays, by the names that DeviceKCenter keeps them under.
_ARRAYS = (
    "control", "counters", "block_row", "block_exact", "block_weight", "squared", "pairs", "candidates", "doubt",
    "settled", "picks", "pick_norm", "pick_row", "norm", "stale", "part", "part_near", "ages", "seen", "value", "near",
    "second", "key",
)  # fmt: skip


class CudaKCenter(DeviceKCenter):
    """See base.KCenterLeaves for the contract, DeviceKCenter for the memory."""

    called = "the CUDA backend"

    def _prepare(self) -> None:
        x, job = self.features, self.job
        self.library: Any = library(x.device)
        self.arithmetic = choose_arithmetic(job.budget.precision, capability(x.device), x.shape[1])
        told = self.library.kcenter_sizes(x.shape[0], processors(x.device))
        self.parts, self.tile_rows, self._rows_of_one = told["parts"], told["tile_rows"], told["span"]
        self.frame = choose_frame(job.name, self.arithmetic, True, features=x)

    def _span(self) -> int:
        return self._rows_of_one

    def _buffers(self, block: int) -> None:
        super()._buffers(block)
        job, x = self.job, self.features
        arrays = {name: getattr(self, name).data_ptr() for name in _ARRAYS}
        self._pass_of = self.library.KCenterPass(
            x=describe(x), mode=self.arithmetic.mode, tracked=self.tracked, plain=self.plain, has_initial=self.initial,
            weighted=self.weighted, eager=not job.tuning.lazy, block=block, room=self.room, target=self.target,
            processors=processors(x.device), parts=self.parts, span=self.span, capacity=job.given + job.k,
            pitch=self.picks.shape[1], initial=job.initial.data_ptr(), weight=self.weight.data_ptr(),
            centre=self.frame.centre.data_ptr(), params=self.frame.params.data_ptr(), **arrays,
        )  # fmt: skip

    def _pack(self, norm: Tensor, out: Tensor | None = None, rows: Tensor | None = None, first: int = 0) -> None:
        pack(self.features, self.frame, norm, out, rows, first)

    def _enqueue(self, levels: int) -> None:
        device = self.features.device
        self.library.kcenter_pass(self._pass_of, levels, device=ordinal(device), stream=stream(device))

    def _refresh_all(self) -> None:
        device = self.features.device
        self.library.kcenter_refresh_all(self._pass_of, device=ordinal(device), stream=stream(device))
