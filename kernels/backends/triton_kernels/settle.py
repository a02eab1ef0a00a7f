"""Exact distances of candidates to their nearest pick, and the block of them that greedy runs over."""

from __future__ import annotations

import triton
import triton.language as tl

from .layout import (
    BEST,
    BEST_ROW,
    BLOCK,
    COUNT,
    DOUBT,
    FOUND,
    INSIDE,
    LAST_ROW,
    WANTED,
)
from .primitives import canonical, inner, load_operand, widen


@triton.jit
def settle_kernel(
    x_ptr,
    x_row,
    x_column,
    y_ptr,  # what picks are rows of: x, or copies of other ranks' rows
    y_row,
    y_column,
    pick_row_ptr,  # [*] int64
    norm_ptr,
    value_ptr,
    near_ptr,
    second_ptr,
    initial_ptr,
    params_ptr,
    counters_ptr,
    candidates_ptr,
    exact_ptr,  # [ROOM] float64: squared distance to the nearest pick
    doubt_ptr,  # [ROOM] int32: places of candidates that need a scan
    columns_ptr,
    leaves,
    ROOM: tl.constexpr,
    TRACKED: tl.constexpr,
    INITIAL: tl.constexpr,
    L: tl.constexpr,
    STEPS: tl.constexpr,
    R: tl.constexpr,
):
    """One float64 distance a candidate: to the nearest pick, if every other is certainly farther. Else a doubt."""
    found = tl.load(counters_ptr + INSIDE)  # narrowed: at most ROOM
    scale = tl.load(params_ptr) * tl.load(params_ptr + 4)
    place = tl.program_id(0) * R + tl.arange(0, R)
    mask = place < found
    if tl.max(mask.to(tl.int32), 0) > 0:
        row = tl.load(candidates_ptr + place, mask=mask, other=0).to(tl.int64)
        exact = tl.full([R], float("inf"), tl.float64)
        if INITIAL:
            exact = tl.load(initial_ptr + row, mask=mask, other=float("inf"))
        value = tl.load(value_ptr + row, mask=mask, other=float("inf")).to(tl.float64)
        if TRACKED:
            norm = tl.load(norm_ptr + row, mask=mask, other=0.0)
            near = tl.load(near_ptr + row, mask=mask, other=-1)
            second = tl.load(second_ptr + row, mask=mask, other=float("inf")).to(tl.float64)
            # A pick no farther than the bound shows no more than this; nothing was picked where near is -1.
            reach = widen(tl.minimum(widen(value, norm, params_ptr), exact * scale * scale), norm, params_ptr)
            some = mask & (near >= 0) & (value <= reach)
            pick = tl.load(pick_row_ptr + near, mask=some, other=0)
            squared = canonical(x_ptr + row * x_row, x_column, y_ptr + pick * y_row, y_column, some, columns_ptr,
                                leaves, L, STEPS, R)  # fmt: skip
            exact = tl.where(some, tl.minimum(exact, squared), exact)
            doubt = some & (second <= reach)
            first = tl.atomic_add(counters_ptr + DOUBT, tl.sum(doubt.to(tl.int32), 0), sem="relaxed")
            tl.store(doubt_ptr + first + tl.cumsum(doubt.to(tl.int32), 0) - 1, place, mask=doubt)
        else:
            exact = tl.minimum(exact, value)
        tl.store(exact_ptr + place, exact, mask=mask)


@triton.jit
def scan_kernel(
    x_ptr,
    x_row,
    x_column,
    columns,
    y_ptr,
    y_row,
    y_column,
    picks_ptr,
    pitch,
    pick_norm_ptr,
    pick_row_ptr,
    norm_ptr,
    value_ptr,
    initial_ptr,
    centre_ptr,
    params_ptr,
    control_ptr,
    counters_ptr,
    candidates_ptr,
    exact_bits_ptr,  # [ROOM] int64: the same squared distances, as bits
    doubt_ptr,
    columns_ptr,
    leaves,
    INITIAL: tl.constexpr,
    MODE: tl.constexpr,
    L: tl.constexpr,
    STEPS: tl.constexpr,
    R: tl.constexpr,  # doubts a program takes at a time
    N: tl.constexpr,
    K: tl.constexpr,
    SEGMENT: tl.constexpr,  # and picks
):
    """Doubts: the exact distance to every pick that may be nearest."""
    count = tl.load(control_ptr + COUNT).to(tl.int32)
    doubts = tl.load(counters_ptr + DOUBT)
    scale = tl.load(params_ptr) * tl.load(params_ptr + 4)
    segments = tl.cdiv(count, SEGMENT)
    for job in range(tl.program_id(0), tl.cdiv(doubts, R) * segments, tl.num_programs(0)):
        number = job // segments * R + tl.arange(0, R)
        mask = number < doubts
        place = tl.load(doubt_ptr + number, mask=mask, other=0)
        row = tl.load(candidates_ptr + place, mask=mask, other=0).to(tl.int64)
        x_rows = x_ptr + row * x_row
        norm = tl.load(norm_ptr + row, mask=mask, other=0.0)
        bound = widen(tl.load(value_ptr + row, mask=mask, other=0.0).to(tl.float64), norm, params_ptr)
        if INITIAL:
            bound = tl.minimum(bound, tl.load(initial_ptr + row, mask=mask, other=0.0) * scale * scale)
        reach = tl.where(mask, widen(bound, norm, params_ptr), float("-inf"))
        nearest = tl.full([R], float("inf"), tl.float64)
        start = (job % segments) * SEGMENT
        end = tl.minimum(start + SEGMENT, count)
        for first in range(start, end, N):
            pick = first + tl.arange(0, N)
            y_rows = picks_ptr + pick.to(tl.int64) * pitch
            dot = tl.zeros([R, N], tl.float32)
            for k in range(0, columns, K):
                column = k + tl.arange(0, K)
                x = load_operand(x_rows, column, x_column, mask, columns, centre_ptr, params_ptr, MODE)
                here = (pick < end)[:, None] & (column < columns)[None, :]
                dot = inner(x, tl.load(y_rows[:, None] + column[None, :], mask=here, other=0.0), dot, MODE)
            fast = tl.load(pick_norm_ptr + pick, mask=pick < end, other=float("inf"))[None, :] - 2.0 * dot
            close = (fast + norm[:, None]).to(tl.float64) <= reach[:, None]  # [R, N]
            which = tl.min(tl.where(close, pick[None, :], end), 1)
            while tl.min(which, 0) < end:  # one pick of each row at a time
                some = which < end
                other = tl.load(pick_row_ptr + which, mask=some, other=0)
                squared = canonical(x_rows, x_column, y_ptr + other * y_row, y_column, some, columns_ptr, leaves, L,
                                    STEPS, R)  # fmt: skip
                nearest = tl.where(some, tl.minimum(nearest, squared), nearest)
                close = close & (pick[None, :] > which[:, None])
                which = tl.min(tl.where(close, pick[None, :], end), 1)
        # Not negative: the order of float64 is that of its bits.
        bits = nearest.to(tl.int64, bitcast=True)
        tl.atomic_min(exact_bits_ptr + place, bits, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=["rows", "target"])
def trim_kernel(
    key_ptr,
    weight_ptr,
    rows,
    control_ptr,
    counters_ptr,
    candidates_ptr,
    exact_ptr,
    block_row_ptr,  # [P] int32
    block_exact_ptr,  # [P] float64
    block_weight_ptr,  # [P] float64
    target,  # candidates aimed at
    ROOM: tl.constexpr,
    WEIGHTED: tl.constexpr,
    P: tl.constexpr,
):
    """The first P candidates in rank, and the best of the others. One program."""
    place = tl.arange(0, ROOM)
    mask = place < tl.load(counters_ptr + INSIDE)
    row = tl.load(candidates_ptr + place, mask=mask, other=0)
    exact = tl.load(exact_ptr + place, mask=mask, other=-1.0)
    key = exact
    weight = tl.full([ROOM], 1.0, tl.float64)
    if WEIGHTED:
        weight = tl.load(weight_ptr + row, mask=mask, other=0.0)
        key = tl.where(mask & (weight > 0), weight * exact, tl.where(mask, 0.0, -1.0))
    tl.store(key_ptr + row, key, mask=mask)

    # Halve the range of keys until nearly P of them lie above: mostly a few steps, since candidates are alike.
    bits = tl.where(mask, key.to(tl.int64, bitcast=True), -1)
    low = tl.min(tl.where(mask, bits, 0x7FFFFFFFFFFFFFFF), 0)
    high = tl.max(bits, 0) + 1  # none reaches it
    cut = low
    number = tl.sum(mask.to(tl.int32), 0)
    if number > P:
        number = 0
        while (high - low > 1) & (4 * number < 3 * P):
            middle = low + (high - low) // 2
            reached = tl.sum((mask & (bits >= middle)).to(tl.int32), 0)
            if reached > P:
                low = middle
            else:
                high = middle
                number = reached
        cut = high
    taken = mask & (bits >= cut)
    if (tl.sum(mask.to(tl.int32), 0) > P) & (4 * number < 3 * P):  # more than fit have the key `low`: the lowest rows
        level = mask & (bits == low)
        low_row, high_row = -1, rows.to(tl.int32)  # the rows up to low_row fit, those up to high_row may not
        while high_row - low_row > 1:
            middle_row = low_row + (high_row - low_row) // 2
            if tl.sum((level & (row <= middle_row)).to(tl.int32), 0) <= P - number:
                low_row = middle_row
            else:
                high_row = middle_row
        taken = taken | (level & (row <= low_row))
    place = tl.cumsum(taken.to(tl.int32), 0) - 1
    tl.store(block_row_ptr + place, row, mask=taken)
    tl.store(block_exact_ptr + place, exact, mask=taken)
    tl.store(block_weight_ptr + place, weight, mask=taken)
    tl.store(counters_ptr + BLOCK, tl.sum(taken.to(tl.int32), 0))
    outside = mask & (taken == 0)
    best = tl.max(tl.where(outside, bits, -1), 0)
    tl.store(control_ptr + BEST, best)
    tl.store(control_ptr + BEST_ROW, tl.min(tl.where(outside & (bits == best), row, LAST_ROW), 0).to(tl.int64))
    # Aim at `target` candidates: the next edge lets in more rows if too few of them held, fewer if too many did.
    wanted, found = tl.load(control_ptr + WANTED), tl.load(control_ptr + FOUND)
    wanted = wanted * 4 if found == 0 else (wanted + wanted * target // found) // 2
    most = tl.minimum(64 * target, rows).to(tl.int64)
    tl.store(control_ptr + WANTED, tl.minimum(tl.maximum(wanted, tl.minimum(target, rows).to(tl.int64)), most))
