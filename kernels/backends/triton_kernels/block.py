"""Greedy inside the block: exact distances of the pairs that may matter, then the plain algorithm in one program."""

from __future__ import annotations

import triton
import triton.language as tl

from .layout import (
    ACCEPTED,
    BEST,
    BEST_ROW,
    BLOCK,
    CONTROL,
    COUNT,
    EDGE,
    EDGE_ROW,
    END,
    LAST_ROW,
    PAIRS,
)
from .primitives import canonical, inner, load_framed, widen


@triton.jit
def near_kernel(
    x_ptr,
    x_row,
    x_column,
    columns,
    norm_ptr,
    centre_ptr,
    params_ptr,
    counters_ptr,
    block_row_ptr,
    block_exact_ptr,
    squared_ptr,  # [P, P] float64
    pair_ptr,  # [P * P] int32: i * P + j
    P: tl.constexpr,
    MODE: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
):
    """Which rows i, once picked, may come nearer to a row j than all picks so far; all others are no matter: inf."""
    size = tl.load(counters_ptr + BLOCK)
    i = tl.program_id(0) * M + tl.arange(0, M)
    j = tl.program_id(1) * M + tl.arange(0, M)
    if (tl.program_id(0) * M < size) & (tl.program_id(1) * M < size):
        scale = tl.load(params_ptr) * tl.load(params_ptr + 4)
        i_row = tl.load(block_row_ptr + i, mask=i < size, other=0).to(tl.int64)
        j_row = tl.load(block_row_ptr + j, mask=j < size, other=0).to(tl.int64)
        dot = tl.zeros([M, M], tl.float32)
        for k in range(0, columns, K):
            column = k + tl.arange(0, K)
            x = load_framed(x_ptr + i_row * x_row, column, x_column, i < size, columns, centre_ptr, params_ptr)
            y = load_framed(x_ptr + j_row * x_row, column, x_column, j < size, columns, centre_ptr, params_ptr)
            dot = inner(x, y, dot, MODE)
        i_norm = tl.load(norm_ptr + i_row, mask=i < size, other=0.0)
        j_norm = tl.load(norm_ptr + j_row, mask=j < size, other=0.0)
        fast = i_norm[:, None] - 2.0 * dot + j_norm[None, :]
        exact = tl.load(block_exact_ptr + j, mask=j < size, other=0.0)
        reach = widen(exact * scale * scale, j_norm, params_ptr)
        both = (i < size)[:, None] & (j < size)[None, :]
        near = both & (fast.to(tl.float64) <= reach[None, :]) & (i[:, None] != j[None, :])
        at = i[:, None] * P + j[None, :]
        tl.store(squared_ptr + at, tl.full([M, M], float("inf"), tl.float64), mask=both)
        flat = tl.reshape(near.to(tl.int32), [M * M])
        first = tl.atomic_add(counters_ptr + PAIRS, tl.sum(flat, 0), sem="relaxed")
        tl.store(pair_ptr + first + tl.cumsum(flat, 0) - 1, tl.reshape(at, [M * M]), mask=flat > 0)


@triton.jit
def pairs_kernel(
    x_ptr,
    x_row,
    x_column,
    counters_ptr,
    block_row_ptr,
    squared_ptr,
    pair_ptr,
    columns_ptr,
    leaves,
    P: tl.constexpr,
    L: tl.constexpr,
    STEPS: tl.constexpr,
    R: tl.constexpr,
):
    """The exact distances of those pairs."""
    pairs = tl.load(counters_ptr + PAIRS)
    for first in range(tl.program_id(0) * R, pairs, tl.num_programs(0) * R):
        place = first + tl.arange(0, R)
        mask = place < pairs
        pair = tl.load(pair_ptr + place, mask=mask, other=0)
        i = tl.load(block_row_ptr + pair // P, mask=mask, other=0).to(tl.int64)
        j = tl.load(block_row_ptr + pair % P, mask=mask, other=0).to(tl.int64)
        squared = canonical(x_ptr + i * x_row, x_column, x_ptr + j * x_row, x_column, mask, columns_ptr, leaves,
                            L, STEPS, R)  # fmt: skip
        tl.store(squared_ptr + pair, squared, mask=mask)


@triton.jit
def resolve_kernel(
    key_ptr,
    control_ptr,  # [CONTROL + 2 P] int64
    counters_ptr,
    block_row_ptr,
    block_bits_ptr,  # [P] int64: squared distances, as bits
    block_weight_ptr,
    squared_bits_ptr,  # [P, P] int64
    pick_row_ptr,
    WEIGHTED: tl.constexpr,
    P: tl.constexpr,
):
    """The plain algorithm over the block while its best row ranks before every row outside. One program.

    Float64 that is not negative has the order of its bits, and -1, for picked rows, is below: comparing integers is
    what cards with few float64 units do much faster.
    """
    size = tl.load(counters_ptr + BLOCK)
    place = tl.arange(0, P)
    mask = place < size
    # The row, and behind it the place: the lowest of these is the lowest row and tells where it stands.
    row = tl.load(block_row_ptr + place, mask=mask, other=LAST_ROW).to(tl.int64) * P + place
    exact = tl.load(block_bits_ptr + place, mask=mask, other=-1)
    weight = tl.load(block_weight_ptr + place, mask=mask, other=0.0)
    edge, edge_row = tl.load(control_ptr + EDGE), tl.load(control_ptr + EDGE_ROW)
    best, best_row = tl.load(control_ptr + BEST), tl.load(control_ptr + BEST_ROW)
    count = tl.load(control_ptr + COUNT)
    quota = tl.load(control_ptr + END) - count
    accepted = 0
    going = True
    while going:
        key = exact
        if WEIGHTED:
            weighted = tl.where(weight > 0, weight * exact.to(tl.float64, bitcast=True), 0.0)
            key = tl.where(exact >= 0, weighted.to(tl.int64, bitcast=True), -1)
        most = tl.max(key, 0)
        first = tl.min(tl.where(key == most, row, LAST_ROW * P), 0)
        lowest, at = first // P, first % P
        inside = (most > edge) | ((most == edge) & (lowest <= edge_row))
        leads = (most > best) | ((most == best) & (lowest < best_row))
        going = (most >= 0) & inside & leads & (accepted < quota)
        if going:
            squared = most
            if WEIGHTED:
                squared = tl.max(tl.where(place == at, exact, -1), 0)
            tl.store(pick_row_ptr + count + accepted, lowest)
            tl.store(control_ptr + CONTROL + accepted, lowest)
            tl.store(control_ptr + CONTROL + P + accepted, squared)
            tl.store(key_ptr + lowest, -1.0)
            to_chosen = tl.load(squared_bits_ptr + at * P + place, mask=mask, other=0)
            exact = tl.where(place == at, -1, tl.minimum(exact, to_chosen))
            accepted += 1
    tl.store(control_ptr + ACCEPTED, accepted)
    tl.store(control_ptr + COUNT, count + accepted)


@triton.jit
def append_kernel(
    x_ptr,
    x_row,
    x_column,
    columns,
    norm_ptr,
    centre_ptr,
    params_ptr,
    control_ptr,
    pick_row_ptr,
    picks_ptr,
    pitch,
    pick_norm_ptr,
    M: tl.constexpr,
    K: tl.constexpr,
):
    """Rows of this pass's picks to where they are compared with, in the frame."""
    accepted = tl.load(control_ptr + ACCEPTED)
    before = tl.load(control_ptr + COUNT) - accepted
    number = tl.program_id(0) * M + tl.arange(0, M)
    mask = number < accepted
    if tl.program_id(0) * M < accepted:
        row = tl.load(pick_row_ptr + before + number, mask=mask, other=0)
        tl.store(pick_norm_ptr + before + number, tl.load(norm_ptr + row, mask=mask, other=0.0), mask=mask)
        for k in range(0, pitch, K):
            column = k + tl.arange(0, K)
            x = load_framed(x_ptr + row * x_row, column, x_column, mask, columns, centre_ptr, params_ptr)
            at = picks_ptr + ((before + number) * pitch)[:, None] + column[None, :]
            tl.store(at, x, mask=mask[:, None] & (column < pitch)[None, :])
