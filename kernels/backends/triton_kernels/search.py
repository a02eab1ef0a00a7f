"""The fast search: tiles of queries against tiles of the bank, of which the smallest distances of each query are kept.

Kept are S slots a query, pairs of a value F - |x|^2 = |y|^2 - 2 x.y in float32 and a bank row. They hold the S smallest
(value, row) in that order, whatever the order of arrival: where float32 is exact, ties are decided here already.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import inner


@triton.jit
def insert(slot_value, slot_row, value, row, FAR: tl.constexpr, ASCENDING: tl.constexpr):
    """Merge candidates [M, N] into slots [M, S]: (value, row) float32 and integer; inf: none.

    Each step takes the smallest candidate of every row of the tile that still has one below its slots' largest, so
    there are as many steps as the busiest row has newcomers; none for most tiles. ASCENDING: every row number is above
    those in the slots, so that equal values never enter. FAR: above every row number.
    """
    worst, low = tl.max(slot_value, 1), tl.min(value, 1)
    enters = low < worst
    if not ASCENDING:
        enters = enters | ties_and_enters(slot_value, slot_row, worst, value, row, low, FAR)
    while tl.max(enters.to(tl.int32), 0) > 0:
        taken, last = first_row(value, row, low, FAR), last_row(slot_value, slot_row, worst, FAR)
        out = (slot_value == worst[:, None]) & (slot_row == last[:, None]) & enters[:, None]
        slot_value = tl.where(out, low[:, None], slot_value)
        slot_row = tl.where(out, taken[:, None], slot_row)
        value = tl.where((value == low[:, None]) & (row == taken[:, None]), float("inf"), value)
        worst, low = tl.max(slot_value, 1), tl.min(value, 1)
        enters = low < worst
        if not ASCENDING:
            enters = enters | ties_and_enters(slot_value, slot_row, worst, value, row, low, FAR)
    return slot_value, slot_row


@triton.jit
def first_row(value, row, low, FAR: tl.constexpr):
    """Of those with this value, the lowest row: [M]."""
    return tl.min(tl.where(value == low[:, None], row, FAR), 1)


@triton.jit
def last_row(value, row, high, FAR: tl.constexpr):
    """Of those with this value, the highest row: [M]."""
    return tl.max(tl.where(value == high[:, None], row, -FAR), 1)


@triton.jit
def ties_and_enters(slot_value, slot_row, worst, value, row, low, FAR: tl.constexpr):
    """Whether the smallest candidate equals the slots' largest and has the lower row: [M]."""
    lower = first_row(value, row, low, FAR) < last_row(slot_value, slot_row, worst, FAR)
    return (low == worst) & (low < float("inf")) & lower


@triton.jit(do_not_specialize=["queries", "first", "rows", "span"])
def search_kernel(
    query_ptr,  # [Q, P] packed: float32 in the frame, or halves as they are; zero behind the last column
    bank_ptr,  # [B, P] packed: a chunk of the bank
    norm_ptr,  # [*] float32: squared norms of all bank rows
    value_ptr,  # [splits, Q, S] float32
    row_ptr,  # [splits, Q, S] int32, or int64 for very long banks
    queries,
    pitch,  # P, a multiple of 16
    first,  # bank row that the chunk begins with; what the slots hold counts unless it is 0
    rows,  # in the chunk
    span,  # rows that one split compares
    S: tl.constexpr,
    FAR: tl.constexpr,
    RESIDENT: tl.constexpr,  # K >= P: the queries are loaded once
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    MODE: tl.constexpr,
):
    query = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    live = query < queries
    at = ((tl.program_id(1).to(tl.int64) * queries + query) * S)[:, None] + tl.arange(0, S)[None, :]
    known = query[:, None] < tl.where(first > 0, queries, 0)
    slot_value = tl.load(value_ptr + at, mask=known, other=float("inf"))  # [M, S]
    slot_row = tl.load(row_ptr + at, mask=known, other=0)
    # Empty slots need numbers of their own: one is emptied at a time.
    slot_row = tl.where(known, slot_row, (-1 - tl.arange(0, S))[None, :].to(slot_row.dtype))
    column = tl.arange(0, K)
    x_ptr = query_ptr + (query * pitch)[:, None] + column[None, :]  # [M, K]
    if RESIDENT:
        x = tl.load(x_ptr, mask=live[:, None] & (column < pitch)[None, :], other=0.0)
    begin = tl.program_id(1) * span
    end = tl.minimum(begin + span, rows)
    for low in range(begin, end, N):
        place = low + tl.arange(0, N)
        here = place < end
        y_ptr = bank_ptr + (place.to(tl.int64) * pitch)[:, None] + column[None, :]  # [N, K]
        acc = tl.zeros([M, N], tl.float32)
        if RESIDENT:
            y = tl.load(y_ptr, mask=here[:, None] & (column < pitch)[None, :], other=0.0)
            acc = inner(x, y, acc, MODE)
        else:
            for k in range(0, pitch, K):
                inside = (k + column < pitch)[None, :]
                part = tl.load(x_ptr + k, mask=live[:, None] & inside, other=0.0)
                y = tl.load(y_ptr + k, mask=here[:, None] & inside, other=0.0)
                acc = inner(part, y, acc, MODE)
        norm = tl.load(norm_ptr + first + place, mask=here, other=float("inf"))
        row = (first + place).to(slot_row.dtype)[None, :]
        slot_value, slot_row = insert(slot_value, slot_row, norm[None, :] - 2.0 * acc, row, FAR, True)
    tl.store(value_ptr + at, slot_value, mask=live[:, None])
    tl.store(row_ptr + at, slot_row, mask=live[:, None])
