"""What is read of all rows before the fast arithmetic: their largest value, their norms or themselves in the frame."""

from __future__ import annotations

import torch
from torch import Tensor

from ..device.frame import DeviceFrame, Rows, decide_frame
from ..device.precision import Arithmetic, halves
from ..native_rows import describe
from .library import library, ordinal, stream, takes_halves
from .precision import PERMITTED


def choose_frame(
    name: str,
    arithmetic: Arithmetic,
    checked: bool,
    halves: bool = False,
    others: Rows | None = None,
    **matrices: Tensor,
) -> DeviceFrame:
    """device.frame.decide_frame with `look` below."""
    return decide_frame(name, arithmetic, checked, look, halves, others, **matrices)


def multiplied_as_they_are(precision: str, *matrices: Tensor) -> bool:
    """Whether the rows are halves that tensor cores of their device may multiply, where a frame changes nothing."""
    wanted = halves("float32" if precision in PERMITTED else precision, *matrices)
    return wanted and takes_halves(matrices[0].device, matrices[0].dtype)


def look(x: Tensor, largest: Tensor, broken: Tensor) -> None:
    """Take the largest |x| (bits of a float64, [1] int64) and whether some value is no integer ([1] int32)."""
    device = x.device
    library(device).look(
        describe(x), largest.data_ptr(), broken.data_ptr(), device=ordinal(device), stream=stream(device)
    )


def pack(x: Tensor, frame: DeviceFrame, norm: Tensor, out: Tensor | None = None, rows: Tensor | None = None,
         first: int = 0) -> None:  # fmt: skip
    """Write squared norms, and the rows themselves if `out` is given, of all rows of x or of some.

    x [N, D], norm [*] float32, out [*, P] contiguous, float32 or, for rows as they are, x's float16 or bfloat16,
    P >= D (columns from D on become zero), rows [R] int64; the first goes to place `first`.
    """
    count, device = x.shape[0] if rows is None else rows.shape[0], x.device
    if count == 0:
        return
    library(device).pack(
        describe(x), 0 if rows is None else rows.data_ptr(), count, first, frame.centre.data_ptr(),
        frame.params.data_ptr(), norm.data_ptr(), 0 if out is None else out.data_ptr(),
        x.shape[1] if out is None else out.shape[1], device=ordinal(device), stream=stream(device),
        raw=out is not None and out.dtype != torch.float32,
    )  # fmt: skip
