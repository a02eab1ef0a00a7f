"""Fused distance tiles with a running minimum: what new picks change for a row. Nothing rows x picks is stored."""

from __future__ import annotations

import triton
import triton.language as tl

from .layout import COUNT, DISTANCES, STALE
from .primitives import inner, load_framed, widen
from .select import append_candidates, reaches


@triton.jit
def splits_of(tiles, PARTS: tl.constexpr):
    """Into how many pieces the picks of every tile are cut: as many as fill PARTS programs."""
    return tl.maximum(PARTS // tl.maximum(tiles, 1), 1)


@triton.jit
def absorb(
    row,  # [M] int64
    mask,
    seen,  # [M] int32
    best,  # [M] float32: smallest fast squared distance to the picks seen..count,
    near,  # [M] int32: which pick has it,
    second,  # [M] float32: smallest of the others
    norm,
    count,
    value_ptr,
    near_ptr,
    second_ptr,
    seen_ptr,
    key_ptr,
    initial_ptr,
    weight_ptr,
    params_ptr,
    control_ptr,
    counters_ptr,
    candidates_ptr,
    LIST: tl.constexpr,
    TRACKED: tl.constexpr,
    INITIAL: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    """Take new distances into what is known of rows; those that still reach the edge become candidates."""
    infinity = float("inf")
    scale = tl.load(params_ptr) * tl.load(params_ptr + 4)
    value = tl.load(value_ptr + row, mask=mask, other=infinity)
    if TRACKED:
        second = tl.minimum(second, tl.maximum(value, best))
        second = tl.minimum(second, tl.load(second_ptr + row, mask=mask, other=infinity))
        near = tl.where(best < value, near, tl.load(near_ptr + row, mask=mask, other=-1))
        tl.store(second_ptr + row, second, mask=mask)
        tl.store(near_ptr + row, near, mask=mask)
    value = tl.minimum(value, best)
    bound = widen(value.to(tl.float64), norm, params_ptr) / (scale * scale)
    if INITIAL:
        bound = tl.minimum(bound, tl.load(initial_ptr + row, mask=mask, other=infinity))
    if WEIGHTED:
        weight = tl.load(weight_ptr + row, mask=mask, other=0.0)
        bound = tl.where(weight > 0, weight * bound, 0.0)
    key = tl.minimum(tl.load(key_ptr + row, mask=mask, other=-1.0), bound)
    tl.store(value_ptr + row, value, mask=mask)
    tl.store(key_ptr + row, key, mask=mask)
    tl.store(seen_ptr + row, tl.where(mask, count, seen), mask=mask)
    computed = tl.sum(tl.where(mask, count - seen, 0).to(tl.int64), 0)
    tl.atomic_add(control_ptr + DISTANCES, computed, sem="relaxed")
    append_candidates(row, mask & reaches(key, row, control_ptr), counters_ptr, candidates_ptr, LIST)


@triton.jit(do_not_specialize=["rows"])
def update_kernel(
    x_ptr,  # [N, D], any float type and strides
    x_row,  # over V
    x_column,
    rows,
    columns,  # over V
    pitch,  # of picks, over V
    stale_ptr,  # [*] int32: which rows, where LISTED
    picks_ptr,  # [*, pitch] float32 in the frame, or halves as they are
    pick_norm_ptr,  # [*] float32
    norm_ptr,  # [N] float32: squared norms in the frame
    seen_ptr,  # [N] int32: picks compared with
    value_ptr,  # [N] float32: smallest fast squared distance
    near_ptr,  # [N] int32: which pick has it, where TRACKED
    second_ptr,  # [N] float32: smallest of all other picks, where TRACKED
    key_ptr,  # [N] float64: squared weight times an upper bound of the squared distance
    initial_ptr,  # [N] float64: squared distances from the outset, where INITIAL
    weight_ptr,  # [N] float64: squared, where WEIGHTED
    centre_ptr,
    params_ptr,
    control_ptr,
    counters_ptr,
    candidates_ptr,
    part_ptr,  # [2, PARTS, M] float32: best and second of a tile and a piece of its picks,
    part_near_ptr,  # [PARTS, M] int32: and near
    LIST: tl.constexpr,
    LISTED: tl.constexpr,
    TRACKED: tl.constexpr,
    PLAIN: tl.constexpr,  # the frame changes nothing: loads need not pass through registers
    INITIAL: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MODE: tl.constexpr,
    PARTS: tl.constexpr,
    V: tl.constexpr,  # a power of two that x_row, columns and pitch are multiples of: loads may be as wide
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Compare rows with the picks they have not seen. Few tiles are cut into pieces, which `merge_kernel` joins."""
    columns = columns * V
    count = tl.load(control_ptr + COUNT).to(tl.int32)
    stale = tl.load(counters_ptr + STALE) if LISTED else rows
    tiles = tl.cdiv(stale, M)
    splits = splits_of(tiles, PARTS)
    chunks = tl.cdiv(columns, K)
    infinity = float("inf")
    for job in range(tl.program_id(0), tiles * splits, tl.num_programs(0)):
        tile = job // splits
        place = tile * M + tl.arange(0, M).to(tl.int64)
        mask = place < stale
        row = tl.load(stale_ptr + place, mask=mask, other=0).to(tl.int64) if LISTED else place
        seen = tl.load(seen_ptr + row, mask=mask, other=count)
        start, newest = tl.min(seen, 0), tl.max(tl.where(mask, seen, 0), 0)
        piece = tl.cdiv(tl.cdiv(count - start, N), splits) * N
        start += (job % splits) * piece
        end = tl.minimum(start + piece, count)
        x_rows = x_ptr + row * x_row * V
        best = tl.full([M], infinity, tl.float32)
        near = tl.full([M], -1, tl.int32)
        second = tl.full([M], infinity, tl.float32)
        dot = tl.zeros([M, N], tl.float32)
        # One loop over picks and columns, so that loads run ahead from one tile of picks into the next.
        for step in range(0, tl.cdiv(tl.maximum(end - start, 0), N) * chunks):
            first = start + step // chunks * N
            chunk = step % chunks
            column = chunk * K + tl.arange(0, K)
            if PLAIN:
                at = x_rows[:, None] + (column.to(tl.int64) * x_column)[None, :]
                x = tl.load(at, mask=mask[:, None] & (column < columns)[None, :], other=0.0)
                if MODE != "half":
                    x = x.to(tl.float32)
            else:
                x = load_framed(x_rows, column, x_column, mask, columns, centre_ptr, params_ptr)
            live = tl.arange(0, N) < end - first
            base = picks_ptr + (first + tl.zeros([], tl.int64)) * (pitch * V)
            y = tl.load(
                base + (tl.arange(0, N) * (pitch * V))[:, None] + column[None, :],
                mask=live[:, None] & (column < columns)[None, :],
                other=0.0,
            )
            dot = inner(x, y, dot, MODE)
            if chunk == chunks - 1:
                pick = first + tl.arange(0, N)
                fast = tl.load(pick_norm_ptr + pick, mask=live, other=infinity)[None, :] - 2.0 * dot  # [M, N]
                dot = tl.zeros([M, N], tl.float32)
                if TRACKED:
                    if first < newest:  # rows refreshed later than others of the tile have met some of these
                        fast = tl.where(pick[None, :] >= seen[:, None], fast, infinity)
                    least, which = tl.min(fast, 1), tl.argmin(fast, 1)
                    others = tl.min(tl.where(tl.arange(0, N)[None, :] == which[:, None], infinity, fast), 1)
                    second = tl.minimum(tl.minimum(second, others), tl.maximum(best, least))
                    near = tl.where(least < best, first + which, near)
                    best = tl.minimum(best, least)
                else:
                    best = tl.minimum(best, tl.min(fast, 1))
        norm = tl.load(norm_ptr + row, mask=mask, other=0.0)
        if splits == 1:
            absorb(row, mask, seen, best + norm, near, second + norm, norm, count, value_ptr, near_ptr, second_ptr,
                   seen_ptr, key_ptr, initial_ptr, weight_ptr, params_ptr, control_ptr, counters_ptr, candidates_ptr,
                   LIST, TRACKED, INITIAL, WEIGHTED)  # fmt: skip
        else:
            at = job * M + tl.arange(0, M)
            tl.store(part_ptr + at, best + norm)
            tl.store(part_ptr + PARTS * M + at, second + norm)
            tl.store(part_near_ptr + at, near)


@triton.jit(do_not_specialize=["rows"])
def merge_kernel(
    rows,
    stale_ptr,
    norm_ptr,
    seen_ptr,
    value_ptr,
    near_ptr,
    second_ptr,
    key_ptr,
    initial_ptr,
    weight_ptr,
    params_ptr,
    control_ptr,
    counters_ptr,
    candidates_ptr,
    part_ptr,
    part_near_ptr,
    LIST: tl.constexpr,
    LISTED: tl.constexpr,
    TRACKED: tl.constexpr,
    INITIAL: tl.constexpr,
    WEIGHTED: tl.constexpr,
    PARTS: tl.constexpr,
    M: tl.constexpr,
):
    """Join the pieces of each tile of `update_kernel`, if there are several."""
    count = tl.load(control_ptr + COUNT).to(tl.int32)
    stale = tl.load(counters_ptr + STALE) if LISTED else rows
    splits = splits_of(tl.cdiv(stale, M), PARTS)
    infinity = float("inf")
    place = tl.program_id(0) * M + tl.arange(0, M).to(tl.int64)
    if (splits > 1) & (tl.program_id(0) * M < stale):
        mask = place < stale
        row = tl.load(stale_ptr + place, mask=mask, other=0).to(tl.int64) if LISTED else place
        best = tl.full([M], infinity, tl.float32)
        near = tl.full([M], -1, tl.int32)
        second = tl.full([M], infinity, tl.float32)
        for piece in range(0, splits):
            at = (tl.program_id(0) * splits + piece) * M + tl.arange(0, M)
            least = tl.load(part_ptr + at)
            second = tl.minimum(tl.minimum(second, tl.load(part_ptr + PARTS * M + at)), tl.maximum(best, least))
            near = tl.where(least < best, tl.load(part_near_ptr + at), near)
            best = tl.minimum(best, least)
        seen = tl.load(seen_ptr + row, mask=mask, other=count)
        norm = tl.load(norm_ptr + row, mask=mask, other=0.0)
        absorb(row, mask, seen, best, near, second, norm, count, value_ptr, near_ptr, second_ptr, seen_ptr, key_ptr,
               initial_ptr, weight_ptr, params_ptr, control_ptr, counters_ptr, candidates_ptr, LIST, TRACKED, INITIAL,
               WEIGHTED)  # fmt: skip
