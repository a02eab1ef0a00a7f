"""Crowded queries: every bank row in reach is settled, with a running exact top-k in (distance, row) order.

Blocks of crowded queries share the tiles of fast distances. The reach shrinks as exact distances come in. Where there
are fewer blocks than programs, several programs take a part of the bank each, and their neighbours are merged.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import canonical, inner, load_operand, widen
from .search import insert

MOST_PARTS = tl.constexpr(64)  # of the bank: merging them takes its time


@triton.jit
def below(reach, norm):
    """`reach` for values without |x|^2: rounded to float32, then up; the bound has room for it."""
    limit = (reach - norm).to(tl.float32)
    return limit + tl.abs(limit) * 2.4e-7 + 1e-37


@triton.jit
def parts_of(count, bank, M: tl.constexpr, N: tl.constexpr):
    """How many parts of the bank programs take for each block of M crowded queries. With two or more, each program has
    at most one."""
    most = tl.minimum(MOST_PARTS, tl.cdiv(bank, N)).to(tl.int32)
    return tl.maximum(1, tl.minimum(most, tl.num_programs(0) // tl.maximum(1, tl.cdiv(count, M))))


@triton.jit(do_not_specialize=["bank", "k"])
def rescue_kernel(
    packed_ptr,  # [Q, P] packed queries: float32, or halves
    pitch,
    query_ptr,  # [Q, D] as the caller has them
    query_row,
    query_column,
    bank_ptr,  # [M, D] as the caller has it
    bank_row,
    bank_column,
    bank,  # M
    columns,
    query_norm_ptr,  # [Q] float32
    norm_ptr,  # [M] float32
    centre_ptr,
    params_ptr,
    reach_ptr,  # [Q] float64
    crowded_ptr,  # [*] int64
    count_ptr,  # [1] int32
    surplus_ptr,  # [M] bool, where THINNED: rows that have k equal ones before them
    exact_ptr,  # [Q, S] float64
    row_ptr,  # [Q, S]
    part_exact_ptr,  # [programs, M, S] float64, the same of a part of the bank
    part_row_ptr,  # [programs, M, S]
    k,
    columns_ptr,
    leaves,
    THINNED: tl.constexpr,
    S: tl.constexpr,
    FAR: tl.constexpr,
    L: tl.constexpr,
    STEPS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    MODE: tl.constexpr,
):
    scale = tl.load(params_ptr) * tl.load(params_ptr + 4)
    count = tl.load(count_ptr)
    slot, place, column = tl.arange(0, S)[None, :], tl.arange(0, N), tl.arange(0, K)
    parts = parts_of(count, bank, M, N)
    # A block of its own: some versions of the interpreter mistake a block & a scalar for integers.
    alone = tl.zeros([M], tl.int32) + tl.where(parts == 1, 1, 0)
    span = tl.cdiv(tl.cdiv(bank, N), parts) * N
    for item in range(tl.program_id(0), tl.cdiv(count, M) * parts, tl.num_programs(0)):
        first, begin = item // parts * M, item % parts * span
        live = first + tl.arange(0, M) < count
        query = tl.load(crowded_ptr + first + tl.arange(0, M), mask=live, other=0)
        norm = tl.load(query_norm_ptr + query, mask=live, other=0.0)
        reach = tl.load(reach_ptr + query, mask=live, other=0.0)
        limit = tl.where(live, below(reach, norm), float("-inf"))
        # Slots from k on never are the worst: nothing enters there.
        exact = tl.where(slot < k, float("inf"), float("-inf")).to(tl.float64) + tl.zeros([M, S], tl.float64)
        row = (-1 - slot).to(row_ptr.dtype.element_ty) + tl.zeros([M, S], row_ptr.dtype.element_ty)
        for low in range(begin, tl.minimum(begin + span, bank), N):
            other = low + place.to(tl.int64)
            here = other < bank
            if THINNED:
                here &= tl.load(surplus_ptr + other, mask=here, other=1) == 0
            acc = tl.zeros([M, N], tl.float32)
            for c in range(0, columns, K):
                inside = live[:, None] & (c + column < columns)[None, :]
                x = tl.load(packed_ptr + (query * pitch)[:, None] + (c + column)[None, :], mask=inside, other=0.0)
                y_ptr = bank_ptr + other * bank_row
                y = load_operand(y_ptr, c + column, bank_column, here, columns, centre_ptr, params_ptr, MODE)
                acc = inner(x, y, acc, MODE)
            value = tl.load(norm_ptr + other, mask=here, other=float("inf"))[None, :] - 2.0 * acc
            hit = tl.where(here[None, :] & (value <= limit[:, None]), place[None, :], N)
            taken = tl.min(hit, 1)  # [M] lowest rows first
            while tl.min(taken, 0) < N:
                some = taken < N
                y_ptr = bank_ptr + (low + tl.where(some, taken, 0).to(tl.int64)) * bank_row
                squared = canonical(query_ptr + query * query_row, query_column, y_ptr, bank_column, some, columns_ptr,
                                    leaves, L, STEPS, M)  # fmt: skip
                worst = tl.max(exact, 1)
                last = tl.max(tl.where(exact == worst[:, None], row, -FAR), 1)
                # Rows come in ascending order: an equal distance stays out.
                enters = some & (squared < worst)
                out = (exact == worst[:, None]) & (row == last[:, None]) & enters[:, None]
                exact = tl.where(out, squared[:, None], exact)
                row = tl.where(out, (low + taken).to(row.dtype)[:, None], row)
                narrow = widen(tl.max(exact, 1) * scale * scale, norm, params_ptr)
                limit = tl.minimum(limit, below(narrow, norm))
                hit = tl.where((place[None, :] > taken[:, None]) & (value <= limit[:, None]), hit, N)
                taken = tl.min(hit, 1)
        real = (slot < k) & (row >= 0)
        exact, row = tl.where(real, exact, float("inf")), tl.where(real, row, -1)
        at, whole = (query * S)[:, None] + slot, (live & (alone == 1))[:, None]
        tl.store(exact_ptr + at, exact, mask=whole)
        tl.store(row_ptr + at, row, mask=whole)
        at, part = ((item * M + tl.arange(0, M)) * S)[:, None] + slot, (live & (alone == 0))[:, None]
        tl.store(part_exact_ptr + at, exact, mask=part)
        tl.store(part_row_ptr + at, row, mask=part)


@triton.jit(do_not_specialize=["bank"])
def merge_kernel(
    crowded_ptr,
    count_ptr,
    bank,
    part_exact_ptr,  # as rescue_kernel left them, with as many programs
    part_row_ptr,
    exact_ptr,
    row_ptr,
    S: tl.constexpr,
    FAR: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    count = tl.load(count_ptr)
    parts = parts_of(count, bank, M, N)
    first = tl.program_id(0) * M
    if (parts > 1) & (first < count):
        live = first + tl.arange(0, M) < count
        query = tl.load(crowded_ptr + first + tl.arange(0, M), mask=live, other=0)
        slot = tl.arange(0, S)[None, :]
        exact = tl.full([M, S], float("inf"), tl.float64)
        row = (-1 - slot).to(row_ptr.dtype.element_ty) + tl.zeros([M, S], row_ptr.dtype.element_ty)
        for part in range(parts):
            item = tl.program_id(0) * parts + part
            at = ((item * M + tl.arange(0, M)) * S)[:, None] + slot
            more = tl.load(part_exact_ptr + at, mask=live[:, None], other=float("inf"))
            rows = tl.load(part_row_ptr + at, mask=live[:, None], other=-1)
            exact, row = insert(exact, row, more, rows, FAR, True)
        at = (query * S)[:, None] + slot
        tl.store(exact_ptr + at, exact, mask=live[:, None])
        tl.store(row_ptr + at, tl.where(exact < float("inf"), row, -1), mask=live[:, None])
