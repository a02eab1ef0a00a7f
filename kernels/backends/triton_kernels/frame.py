"""What is read of all rows before the fast arithmetic: their largest value, their norms or themselves in the frame."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..device.frame import DeviceFrame, Rows, decide_frame
from .precision import Arithmetic
from .primitives import load_framed

__all__ = ["DeviceFrame", "choose_frame", "look", "pack"]

_TILE = 4096  # elements looked at in one step


@triton.jit(do_not_specialize=["rows"])
def look_kernel(
    x_ptr,  # [N, D]
    row_stride,
    column_stride,
    rows,
    columns,
    largest_ptr,  # [1] int64: bits of the largest |x|, those of infinity for NaN
    broken_ptr,  # [1] int32: 1 if a value is not an integer
    M: tl.constexpr,
    K: tl.constexpr,
):
    largest = tl.zeros([M], tl.float64)
    broken = tl.zeros([M], tl.int32)
    row = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    for k in range(0, columns, K):
        column = k + tl.arange(0, K)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        at = x_ptr + (row * row_stride)[:, None] + (column.to(tl.int64) * column_stride)[None, :]
        x = tl.load(at, mask=mask, other=0.0)
        x = x if x.dtype == tl.float64 else x.to(tl.float32)
        size = tl.where(x == x, tl.abs(x), float("inf")).to(tl.float64)
        largest = tl.maximum(largest, tl.max(size, 1))
        broken = tl.maximum(broken, tl.max((x != tl.floor(x)).to(tl.int32), 1))
    # Float64 values that are not negative have the order of their bits.
    tl.atomic_max(largest_ptr, tl.max(largest, 0).to(tl.int64, bitcast=True), sem="relaxed")
    tl.atomic_max(broken_ptr, tl.max(broken, 0), sem="relaxed")


@triton.jit(do_not_specialize=["first", "count"])
def pack_kernel(
    x_ptr,  # [N, D]
    row_stride,
    column_stride,
    rows_ptr,  # [R] int64, which rows; all, in order, where LISTED is off
    first,  # place of the first row in what is written
    count,
    columns,
    centre_ptr,
    params_ptr,
    out_ptr,  # [*, P] where STORED, float32 or the halves of x: columns from D on are zero
    pitch,  # P
    norm_ptr,  # [*] float32: squared norms, summed in float64
    LISTED: tl.constexpr,
    STORED: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    mask = place < count
    row = tl.load(rows_ptr + place, mask=mask, other=0) if LISTED else place
    norm = tl.zeros([M], tl.float64)
    for k in range(0, pitch, K):
        column = k + tl.arange(0, K)
        x = load_framed(x_ptr + row * row_stride, column, column_stride, mask, columns, centre_ptr, params_ptr)
        x = tl.where((column < columns)[None, :], x, 0.0)
        norm += tl.sum(x.to(tl.float64) * x.to(tl.float64), 1)
        if STORED:
            at = out_ptr + ((first + place) * pitch)[:, None] + column[None, :]
            tl.store(at, x, mask=mask[:, None] & (column < pitch)[None, :])
    tl.store(norm_ptr + first + place, norm.to(tl.float32), mask=mask)


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


def look(x: Tensor, largest: Tensor, broken: Tensor) -> None:
    """Take the largest |x| (bits of a float64, [1] int64) and whether some value is no integer ([1] int32)."""
    k = min(128, triton.next_power_of_2(x.shape[1]))
    m = _TILE // k
    look_kernel[(triton.cdiv(x.shape[0], m),)](
        x, x.stride(0), x.stride(1), x.shape[0], x.shape[1], largest, broken, M=m, K=k, enable_fp_fusion=False
    )  # fmt: skip


def pack(x: Tensor, frame: DeviceFrame, norm: Tensor, out: Tensor | None = None, rows: Tensor | None = None,
         first: int = 0) -> None:  # fmt: skip
    """Write squared norms, and the rows themselves if `out` is given, of all rows of x or of some.

    x [N, D], norm [*] float32, out [*, P] contiguous, P >= D (columns from D on become zero), float32 or, where the
    frame changes nothing, of x's type; rows [R] int64; the first goes to place `first`.
    """
    count = x.shape[0] if rows is None else rows.shape[0]
    if count == 0:
        return
    k = min(128, triton.next_power_of_2(x.shape[1]))
    m = _TILE // k
    pack_kernel[(triton.cdiv(count, m),)](
        x, x.stride(0), x.stride(1), norm if rows is None else rows, first, count, x.shape[1], frame.centre,
        frame.params, norm if out is None else out, x.shape[1] if out is None else out.shape[1], norm,
        LISTED=rows is not None, STORED=out is not None, M=m, K=k, enable_fp_fusion=True,
    )  # fmt: skip
