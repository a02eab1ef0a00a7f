"""What the kernels share: rows in the frame, tiles of inner products, the error bound, the canonical distance.

A frame is a centre [D] float32 and five float64 numbers, all on the device: two factors of the scale, which may itself
be too large for float32, and between them the bound's relative, norm and absolute parts (rounding.ErrorBound). A row is
seen as (x - centre) * scale in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import interpreted

LEAF = 128  # columns that `canonical` sums in one go: more takes shared memory beyond what Turing has
DEPTH = 16  # levels above a leaf: 2^16 leaves hold 8 M columns
INTERPRETED = tl.constexpr(interpreted())  # the interpreter's tl.dot multiplies the bits of bfloat16 as integers
NEVER = tl.constexpr(0x7FF0000000000000)  # the bits of float64 infinity


def canonical_columns(dim: int, device: torch.device) -> Tensor:
    """[C, L] int32: columns in the order in which `canonical` takes them, -1 where a sum has no second term.

    exact.halving_sum adds term i + ceil(w / 2) to term i until one is left. Writing a column as the path from the root
    of that tree, one bit a level, turns it into a tree over 2^levels places, some empty; adding an empty place's zero
    changes nothing. A leaf of L places is halved in registers, leaves are merged in pairs.
    """
    widths = [dim]
    while widths[-1] > 1:
        widths.append((widths[-1] + 1) // 2)
    column = torch.zeros(1, dtype=torch.int64, device="cpu")
    real = torch.ones(1, dtype=torch.bool, device="cpu")
    for width, half in zip(widths[-2::-1], widths[:0:-1], strict=True):  # from the root down
        column = torch.stack([column, column + half], 1).flatten()
        real = real.repeat_interleave(2) & (column < width)
    column = torch.where(real, column, -1)
    leaf = min(LEAF, column.shape[0])
    # Within a leaf neighbours are added first; the kernel adds halves first: reverse the bits of the place.
    place = torch.zeros(1, dtype=torch.int64, device="cpu")
    for bit in range(leaf.bit_length() - 1):
        place = torch.cat([place, place + (leaf >> (bit + 1))])
    return column.view(-1, leaf)[:, place].to(device=device, dtype=torch.int32).contiguous()


@triton.jit
def canonical(
    x_ptr,  # [R] pointers to rows of any float type
    x_stride,  # between columns
    y_ptr,  # [R]
    y_stride,
    mask,  # [R]
    columns_ptr,  # [leaves, L] of canonical_columns
    leaves,
    L: tl.constexpr,
    STEPS: tl.constexpr,  # log2(L)
    R: tl.constexpr,
):
    """exact.squared_distance of R pairs of rows, [R] float64. Launch with enable_fp_fusion=False."""
    level = tl.arange(0, 16)
    sums = tl.zeros([R, 16], tl.float64)  # of complete subtrees that wait for their right half
    total = tl.zeros([R], tl.float64)
    for c in range(leaves):
        column = tl.load(columns_ptr + c * L + tl.arange(0, L)).to(tl.int64)
        here = mask[:, None] & (column >= 0)[None, :]
        column = tl.where(column >= 0, column, 0)
        x = tl.load(x_ptr[:, None] + (column * x_stride)[None, :], mask=here, other=0.0).to(tl.float64)
        y = tl.load(y_ptr[:, None] + (column * y_stride)[None, :], mask=here, other=0.0).to(tl.float64)
        v = (x - y) * (x - y)  # [R, L]
        for i in tl.static_range(STEPS):
            low, high = tl.split(tl.permute(tl.reshape(v, [R, 2, L >> (i + 1)]), (0, 2, 1)))
            v = low + high
        total = tl.reshape(v, [R])
        depth = 0
        while ((c >> depth) & 1) == 1:
            total = tl.sum(tl.where((level == depth)[None, :], sums, 0.0), 1) + total
            depth += 1
        sums = tl.where((level == depth)[None, :], total[:, None], sums)
    return total


@triton.jit
def widen(squared, norm, params_ptr):
    """ErrorBound.widen in the frame's units: float64 `squared`, float32 `norm` -> float64."""
    relative = tl.load(params_ptr + 1)
    wide = (tl.maximum(squared, 0.0) + tl.load(params_ptr + 2) * norm.to(tl.float64) + tl.load(params_ptr + 3)) * (
        1.0 + relative
    )
    return tl.where(relative > 0, wide, squared)


@triton.jit
def framed(x, centre, params_ptr):
    """Values of any float type as the fast arithmetic sees them: float32, rounded once."""
    scale, scale2 = tl.load(params_ptr), tl.load(params_ptr + 4)
    if x.dtype == tl.float64:
        return ((x - centre.to(tl.float64)) * scale * scale2).to(tl.float32)
    else:
        return (x.to(tl.float32) - centre) * scale.to(tl.float32) * scale2.to(tl.float32)


@triton.jit
def load_framed(ptr, column, stride, mask, columns, centre_ptr, params_ptr):
    """Rows at `ptr` [R] and some columns [K] of theirs in the frame: [R, K] float32, zero where masked."""
    here = column < columns
    x = tl.load(ptr[:, None] + (column.to(tl.int64) * stride)[None, :], mask=mask[:, None] & here[None, :], other=0.0)
    centre = tl.load(centre_ptr + column, mask=here, other=0.0)
    return tl.where(mask[:, None], framed(x, centre[None, :], params_ptr), 0.0)


@triton.jit
def load_operand(ptr, column, stride, mask, columns, centre_ptr, params_ptr, MODE: tl.constexpr):
    """Rows and columns as load_framed, for `inner`: in mode "half" the frame changes nothing, and they stay halves."""
    if MODE == "half":
        here = mask[:, None] & (column < columns)[None, :]
        return tl.load(ptr[:, None] + (column.to(tl.int64) * stride)[None, :], mask=here, other=0.0)
    else:
        return load_framed(ptr, column, stride, mask, columns, centre_ptr, params_ptr)


@triton.jit
def inner(x, y, acc, MODE: tl.constexpr):
    """acc + x @ y.T: [M, K], [N, K], [M, N] float32, in the arithmetic that precision.py names.

    x and y are float32, in mode "half" float16 or bfloat16, both the same.
    """
    if (MODE == "bf16") | (MODE == "half"):
        if MODE == "bf16":
            x, y = x.to(tl.bfloat16), y.to(tl.bfloat16)
        if INTERPRETED:
            x, y = x.to(tl.float32), y.to(tl.float32)
        return tl.dot(x, tl.trans(y), acc, input_precision="ieee", out_dtype=tl.float32)
    else:
        return tl.dot(x, tl.trans(y), acc, input_precision=MODE, out_dtype=tl.float32)
