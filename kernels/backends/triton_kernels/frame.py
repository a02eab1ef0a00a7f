"""Where the fast arithmetic happens, decided on the device: nothing here waits for the host but the check of values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...checks import LARGEST, raise_unusable
from ...rounding import SAFE_EXPONENT, sample_rows
from .precision import Arithmetic
from .primitives import load_framed

_EXACT_INTEGERS = 2.0**24  # in float32, and so in TF32: values are then below 2^11
_EXACT_BF16 = 2.0**8
_TILE = 4096  # elements looked at in one step


@dataclass(frozen=True)
class DeviceFrame:
    """Rows as (x - centre) * scale in float32, and what is then known of the error of a fast squared distance."""

    centre: Tensor  # [D] float32
    params: Tensor  # [5] float64: a power of two, the bound's relative, norm and absolute parts, a power of two

    @property
    def squared_scale(self) -> Tensor:
        """[] float64: fast squared distances are this many times the true ones."""
        return (self.params[0] * self.params[4]).square()


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
    out_ptr,  # [*, P] float32, where STORED: columns from D on are zero
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


def choose_frame(name: str, arithmetic: Arithmetic, checked: bool, **matrices: Tensor) -> DeviceFrame:
    """A common frame for all matrices, as rounding.choose_frame, without a word to the host unless `checked`.

    Parameters
    ----------
    name : public function, for the error message.
    checked : refuse rows that are not finite; the one wait for the device.
    matrices : [N, D] each, by the name that the message should use. The first places the centre.
    """
    x = next(iter(matrices.values()))
    device, dim = x.device, x.shape[1]
    sizes = torch.zeros(len(matrices), dtype=torch.int64, device=device)
    broken = torch.zeros(1, dtype=torch.int32, device=device)
    for i, matrix in enumerate(matrices.values()):
        look(matrix, sizes[i : i + 1], broken)
    largest = sizes.view(torch.float64)
    if checked:
        for (what, matrix), size in zip(matrices.items(), largest.tolist(), strict=True):
            if not size <= LARGEST:
                raise_unusable(name, what, matrix)
    most = largest.max()
    integral = (broken[0] == 0) & (4 * dim * most.square() <= _EXACT_INTEGERS)
    if arithmetic.mode == "bf16":
        integral &= most <= _EXACT_BF16
    plain = (most >= 2.0**-SAFE_EXPONENT) & (most <= 2.0**SAFE_EXPONENT)
    exponent = torch.clamp(40 - torch.frexp(most).exponent, max=450)
    one = torch.ones_like(most)
    exponent = torch.where(plain | (most == 0), 0, exponent)
    sample = sample_rows(x).double()
    centre = sample.median(0).values.float().double()
    spread = (sample - centre).square().sum(1).median()
    centred = plain & ~integral & (16 * spread < sample.square().sum(1).median())
    inside, outside = arithmetic.bound(dim, SAFE_EXPONENT), arithmetic.bound(dim, 41)
    zero = torch.zeros_like(most)
    bound = [
        torch.where(integral, zero, torch.where(plain, a, b))
        for a, b in (
            (torch.full_like(most, inside.relative), torch.full_like(most, outside.relative)),
            (torch.full_like(most, inside.norm), torch.full_like(most, outside.norm)),
            (torch.full_like(most, inside.absolute), torch.full_like(most, outside.absolute)),
        )
    ]
    params = [torch.ldexp(one, exponent // 2), *bound, torch.ldexp(one, exponent - exponent // 2)]
    return DeviceFrame(torch.where(centred, centre, 0.0).float().contiguous(), torch.stack(params))


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

    x [N, D], norm [*] float32, out [*, P] float32 contiguous, P >= D (columns from D on become zero), rows [R] int64;
    the first goes to place `first`.
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
