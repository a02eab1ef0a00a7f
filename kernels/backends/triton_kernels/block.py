"""Greedy inside the block: exact distances of the pairs that may matter, then the picks in rounds, in one program."""

from __future__ import annotations

import triton
import triton.language as tl

from .layout import (
    ACCEPTED,
    BEST,
    BEST_ROW,
    BLOCK,
    COUNT,
    EDGE,
    EDGE_ROW,
    END,
    LAST_ROW,
    PAIRS,
    PASSES,
)
from .primitives import NEVER, canonical, inner, load_framed, load_operand, widen

# States of a row of the block.
OPEN = tl.constexpr(0)
PICKED = tl.constexpr(1)
OUT = tl.constexpr(2)  # this pass cannot pick it


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
    pair_ptr,  # [P * P] int32: i * P + j; they take less than the first half
    P: tl.constexpr,
    MODE: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
):
    """Pairs of rows of which one, once picked, may come nearer to the other than all picks so far, each pair once."""
    size = tl.load(counters_ptr + BLOCK)
    i = tl.program_id(0) * M + tl.arange(0, M)
    j = tl.program_id(1) * M + tl.arange(0, M)
    if (tl.program_id(0) <= tl.program_id(1)) & (tl.program_id(1) * M < size):
        scale = tl.load(params_ptr) * tl.load(params_ptr + 4)
        i_row = tl.load(block_row_ptr + i, mask=i < size, other=0).to(tl.int64)
        j_row = tl.load(block_row_ptr + j, mask=j < size, other=0).to(tl.int64)
        dot = tl.zeros([M, M], tl.float32)
        for k in range(0, columns, K):
            column = k + tl.arange(0, K)
            x = load_operand(x_ptr + i_row * x_row, column, x_column, i < size, columns, centre_ptr, params_ptr, MODE)
            y = load_operand(x_ptr + j_row * x_row, column, x_column, j < size, columns, centre_ptr, params_ptr, MODE)
            dot = inner(x, y, dot, MODE)
        i_norm = tl.load(norm_ptr + i_row, mask=i < size, other=0.0)
        j_norm = tl.load(norm_ptr + j_row, mask=j < size, other=0.0)
        fast = i_norm[:, None] - 2.0 * dot + j_norm[None, :]
        i_exact = tl.load(block_exact_ptr + i, mask=i < size, other=0.0)
        j_exact = tl.load(block_exact_ptr + j, mask=j < size, other=0.0)
        i_reach = widen(i_exact * scale * scale, i_norm, params_ptr)
        j_reach = widen(j_exact * scale * scale, j_norm, params_ptr)
        pair = (i[:, None] < j[None, :]) & (j < size)[None, :]
        near = pair & (fast.to(tl.float64) <= tl.maximum(i_reach[:, None], j_reach[None, :]))
        at = i[:, None] * P + j[None, :]
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
    squared_ptr,  # [P * P] float64, in the order of the pairs
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
        tl.store(squared_ptr + place, squared, mask=mask)


@triton.jit
def before(key, row, other_key, other_row):
    """Whether rows rank before others: by larger key, then by lower row."""
    return (key > other_key) | ((key == other_key) & (row < other_row))


@triton.jit
def key_of(exact, weight, WEIGHTED: tl.constexpr):
    """Bits of squared distances -> bits of keys."""
    if WEIGHTED:
        weighted = tl.where(weight > 0, weight * exact.to(tl.float64, bitcast=True), 0.0)
        return weighted.to(tl.int64, bitcast=True)
    else:
        return exact


@triton.jit
def resolve_kernel(
    control_ptr,
    counters_ptr,
    block_row_ptr,
    block_bits_ptr,  # [P] int64: squared distances, as bits; of picks, those they are picked with
    block_weight_ptr,
    pair_ptr,  # [P * P] int32: pairs; from the middle on states, and whether a row is blocked
    squared_bits_ptr,  # [P * P] int64: their squared distances; from the middle on keys, and distances found in a round
    WEIGHTED: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,  # pairs a step
):
    """Which rows of the block the plain algorithm picks while its best row ranks before every row outside. One program.

    In rounds, as csrc/cuda/block.cu, where the proof is: a row is a pick as soon as no open row of higher rank would
    come nearer to it than its picks. `append_kernel` puts the picks into the order of their ranks.

    Float64 that is not negative has the order of its bits: comparing integers is what cards with few float64 units do
    much faster. Threads meet through memory that this program alone uses, with barriers between writing and reading.
    """
    count, end = tl.load(control_ptr + COUNT), tl.load(control_ptr + END)
    size = tl.where(count < end, tl.load(counters_ptr + BLOCK), 0)
    edge, edge_row = tl.load(control_ptr + EDGE), tl.load(control_ptr + EDGE_ROW)
    best, best_row = tl.load(control_ptr + BEST), tl.load(control_ptr + BEST_ROW)
    state_ptr, key_ptr = pair_ptr + P * P // 2, squared_bits_ptr + P * P // 2
    blocked_ptr, found_ptr = state_ptr + P, key_ptr + P
    place = tl.arange(0, P)
    mask = place < size
    row = tl.load(block_row_ptr + place, mask=mask, other=LAST_ROW).to(tl.int64)
    weight = tl.load(block_weight_ptr + place, mask=mask, other=0.0)
    exact = tl.load(block_bits_ptr + place, mask=mask, other=0)
    key = key_of(exact, weight, WEIGHTED)
    leads = ((key > edge) | ((key == edge) & (row <= edge_row))) & before(key, row, best, best_row)
    state = tl.where(mask & leads, OPEN, OUT)
    tl.store(state_ptr + place, state)
    tl.store(key_ptr + place, key)
    tl.store(blocked_ptr + place, 0)
    tl.store(found_ptr + place, exact)
    pairs = tl.load(counters_ptr + PAIRS)
    open = tl.max((state == OPEN).to(tl.int32), 0)
    tl.debug_barrier()
    while open > 0:
        kept = 0  # pairs that still matter: they move to the front
        for lo in range(0, pairs, B):
            at = lo + tl.arange(0, B)
            here = at < pairs
            pair = tl.load(pair_ptr + at, mask=here, other=0)
            squared = tl.load(squared_bits_ptr + at, mask=here, other=NEVER)
            i, j = pair // P, pair % P
            i_key, j_key = tl.load(key_ptr + i), tl.load(key_ptr + j)
            turned = before(j_key, tl.load(block_row_ptr + j), i_key, tl.load(block_row_ptr + i))
            high, low = tl.where(turned, j, i), tl.where(turned, i, j)
            one, other = tl.load(state_ptr + high), tl.load(state_ptr + low)
            closer = here & (other == OPEN) & (squared < tl.load(block_bits_ptr + low))
            tl.atomic_min(found_ptr + low, squared, mask=closer & (one == PICKED), sem="relaxed")
            blocks = closer & (one == OPEN)
            tl.store(blocked_ptr + low, 1, mask=blocks)
            # Row `high` may yet sink below row `low`.
            sinks = here & (one == OPEN) & (other != OUT) & (squared < tl.load(block_bits_ptr + high))
            matters = (blocks | sinks).to(tl.int32)
            to = kept + tl.cumsum(matters, 0) - 1
            kept += tl.sum(matters, 0)
            tl.debug_barrier()  # all of a step is read before its places, which are no further on, are written
            tl.store(pair_ptr + to, pair, mask=matters > 0)
            tl.store(squared_bits_ptr + to, squared, mask=matters > 0)
        tl.debug_barrier()
        pairs = kept
        found = tl.load(found_ptr + place, volatile=True)
        blocked = tl.load(blocked_ptr + place, volatile=True)
        lower = (state == OPEN) & (found < exact)
        state = tl.where((state == OPEN) & (found >= exact) & (blocked == 0), PICKED, state)
        exact = tl.where(lower, found, exact)
        key = key_of(exact, weight, WEIGHTED)
        leads = ((key > edge) | ((key == edge) & (row <= edge_row))) & before(key, row, best, best_row)
        state = tl.where(lower & (leads == 0), OUT, state)
        tl.store(state_ptr + place, state)
        tl.store(key_ptr + place, key)
        tl.store(blocked_ptr + place, 0)
        tl.store(block_bits_ptr + place, exact, mask=mask)
        open = tl.max((state == OPEN).to(tl.int32), 0)
        tl.debug_barrier()
    if count < end:
        accepted = tl.minimum(tl.sum((state == PICKED).to(tl.int64), 0), end - count)
        tl.store(control_ptr + ACCEPTED, accepted)
        tl.store(control_ptr + COUNT, count + accepted)
        tl.store(control_ptr + PASSES, tl.load(control_ptr + PASSES) + 1)


@triton.jit
def append_kernel(
    x_ptr,
    x_row,
    x_column,
    columns,
    norm_ptr,
    centre_ptr,
    params_ptr,
    key_ptr,  # [N] float64
    control_ptr,
    counters_ptr,
    block_row_ptr,
    block_bits_ptr,
    pair_ptr,  # as `resolve_kernel` leaves them
    squared_bits_ptr,
    pick_row_ptr,
    pick_squared_bits_ptr,
    picks_ptr,  # [*, pitch] float32 in the frame, or halves as they are
    pitch,
    pick_norm_ptr,
    P: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """This pass's picks in order of rank, and their rows to where they are compared with: a program M places."""
    size = tl.load(counters_ptr + BLOCK)
    if tl.program_id(0) * M < size:
        state_ptr, rank_ptr = pair_ptr + P * P // 2, squared_bits_ptr + P * P // 2
        accepted = tl.load(control_ptr + ACCEPTED)
        place = tl.program_id(0) * M + tl.arange(0, M)
        rank, row = tl.load(rank_ptr + place), tl.load(block_row_ptr + place, mask=place < size, other=0)
        number = tl.zeros([M], tl.int32)
        for lo in range(0, size, N):
            other = lo + tl.arange(0, N)
            here = other < size
            picked = tl.load(state_ptr + other, mask=here, other=OUT) == PICKED
            others = tl.load(rank_ptr + other, mask=here, other=-1)
            rows = tl.load(block_row_ptr + other, mask=here, other=0)
            ahead = picked[None, :] & before(others[None, :], rows[None, :], rank[:, None], row[:, None])
            number += tl.sum(ahead.to(tl.int32), 1)
        mask = (tl.load(state_ptr + place) == PICKED) & (number < accepted)
        at = tl.load(control_ptr + COUNT) - accepted + number
        row = row.to(tl.int64)
        tl.store(pick_row_ptr + at, row, mask=mask)
        tl.store(pick_squared_bits_ptr + at, tl.load(block_bits_ptr + place, mask=mask, other=0), mask=mask)
        tl.store(pick_norm_ptr + at, tl.load(norm_ptr + row, mask=mask, other=0.0), mask=mask)
        tl.store(key_ptr + row, -1.0, mask=mask)
        for k in range(0, pitch, K):
            column = k + tl.arange(0, K)
            x = load_framed(x_ptr + row * x_row, column, x_column, mask, columns, centre_ptr, params_ptr)
            to = picks_ptr + (at * pitch)[:, None] + column[None, :]
            tl.store(to, x, mask=mask[:, None] & (column < pitch)[None, :])
