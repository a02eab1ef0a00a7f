"""From slots of fast distances to neighbours: what may be among them is settled in float64 and ranked.

With F_k the k-th smallest fast distance of a query, every true neighbour has F <= widen(widen(F_k)) (tiled/search.py).
If even the largest one kept is within that reach, rows that were not kept may be too: the query is crowded.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import canonical, widen
from .search import insert


@triton.jit
def ranks(value, row):
    """Place of each (value, row) [R, S] among those of its line, from 0; equal pairs share one."""
    value, other = value[:, :, None], value[:, None, :]
    before = (other < value) | ((other == value) & (row[:, None, :] < row[:, :, None]))
    return tl.sum(before.to(tl.int32), 2)


@triton.jit(do_not_specialize=["queries", "splits", "k", "bank"])
def reach_kernel(
    value_ptr,  # [splits, Q, S] float32
    row_ptr,  # [splits, Q, S]; the first split receives the rows to settle, -1 elsewhere
    norm_ptr,  # [Q] float32
    params_ptr,
    reach_ptr,  # [Q] float64: largest fast distance that a neighbour can have
    crowded_ptr,  # [Q] int64: crowded queries, in any order
    count_ptr,  # [1] int32: how many
    queries,
    splits,
    k,
    bank,  # rows
    S: tl.constexpr,
    FAR: tl.constexpr,
    R: tl.constexpr,
):
    query = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    live = query < queries
    at = (query * S)[:, None] + tl.arange(0, S)[None, :]
    value = tl.load(value_ptr + at, mask=live[:, None], other=float("inf"))
    row = tl.load(row_ptr + at, mask=live[:, None], other=-1)
    for split in range(1, splits):
        also = at + (split + tl.zeros([], tl.int64)) * queries * S
        more = tl.load(value_ptr + also, mask=live[:, None], other=float("inf"))
        value, row = insert(value, row, more, tl.load(row_ptr + also, mask=live[:, None], other=-1), FAR, False)
    norm = tl.load(norm_ptr + query, mask=live, other=0.0)
    kth = tl.max(tl.where(ranks(value, row) == k - 1, value, float("-inf")), 1)
    reach = widen(widen(kth.to(tl.float64) + norm, norm, params_ptr), norm, params_ptr)
    # Exact distances tie to the lowest row in `insert` already.
    decided = tl.where((tl.load(params_ptr + 1) > 0) & (bank > S), 0.0, float("inf"))
    crowded = live & (tl.max(value, 1).to(tl.float64) + norm + decided <= reach)
    survives = (value.to(tl.float64) + norm[:, None] <= reach[:, None]) & (row >= 0) & (crowded == 0)[:, None]
    tl.store(row_ptr + at, tl.where(survives, row, -1), mask=live[:, None])
    tl.store(reach_ptr + query, reach, mask=live)
    found = tl.sum(crowded.to(tl.int32), 0)
    if found > 0:
        first = tl.atomic_add(count_ptr, found, sem="relaxed")
        tl.store(crowded_ptr + first + tl.cumsum(crowded.to(tl.int32), 0) - 1, query, mask=crowded)


@triton.jit(do_not_specialize=["count"])
def settle_kernel(
    query_ptr,  # [Q, D] as the caller has them
    query_row,
    query_column,
    bank_ptr,  # [M, D]
    bank_row,
    bank_column,
    row_ptr,  # [Q, S], -1: nothing to settle
    exact_ptr,  # [Q, S] float64, inf where nothing is
    count,  # Q * S
    columns_ptr,
    leaves,
    S: tl.constexpr,
    L: tl.constexpr,
    STEPS: tl.constexpr,
    R: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    row = tl.load(row_ptr + pair, mask=pair < count, other=-1).to(tl.int64)
    some = row >= 0
    squared = tl.full([R], float("inf"), tl.float64)
    if tl.max(some.to(tl.int32), 0) > 0:
        x_ptr = query_ptr + (pair // S) * query_row
        y_ptr = bank_ptr + tl.where(some, row, 0) * bank_row
        exact = canonical(x_ptr, query_column, y_ptr, bank_column, some, columns_ptr, leaves, L, STEPS, R)
        squared = tl.where(some, exact, squared)
    tl.store(exact_ptr + pair, squared, mask=pair < count)


@triton.jit(do_not_specialize=["queries", "k"])
def rank_kernel(
    exact_ptr,  # [Q, S] float64
    row_ptr,  # [Q, S]
    out_ptr,  # [Q, k] float64
    out_row_ptr,  # [Q, k] int64
    queries,
    k,
    S: tl.constexpr,
    R: tl.constexpr,
):
    query = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    at = (query * S)[:, None] + tl.arange(0, S)[None, :]
    live = (query < queries)[:, None]
    exact = tl.load(exact_ptr + at, mask=live, other=float("inf"))
    row = tl.load(row_ptr + at, mask=live, other=-1).to(tl.int64)
    place = ranks(exact, row)
    mask = live & (row >= 0) & (place < k)
    out = (query * k)[:, None] + place
    tl.store(out_ptr + out, exact, mask=mask)
    tl.store(out_row_ptr + out, row, mask=mask)
