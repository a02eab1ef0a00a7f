"""Which rows a pass looks at: a cut through the order (larger key first, then lower row) by histograms of its bits.

A key is a float64 that is not negative, so its order is that of its bits. Each level takes 11 more of them, first of
the key, then of the row. Two levels give an edge that lets in at least as many rows as wanted, nine exactly as many.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .layout import (
    AGE_BINS,
    BINS,
    COARSE_LEVELS,
    COUNT,
    CROWDED,
    EDGE,
    EDGE_ROW,
    END,
    HISTOGRAM,
    INSIDE,
    LAST_ROW,
    LEFT,
    STALE,
    TICKET,
    WANTED,
)


@triton.jit(do_not_specialize=["rows"])
def edge_kernel(
    key_ptr,  # [N] float64, -1 where picked
    rows,
    control_ptr,
    counters_ptr,
    own_ptr,  # [programs, BINS] int32, where OWN
    LEVEL: tl.constexpr,
    SHIFT: tl.constexpr,  # this level counts WIDTH bits from here up
    WIDTH: tl.constexpr,
    OF_ROW: tl.constexpr,  # of the row, flipped, among rows with the edge's key, not of the key
    HIGHEST: tl.constexpr,  # no bits above these: nothing is decided yet
    OWN: tl.constexpr,  # count by atomics on bins of the program's own
    B: tl.constexpr,  # rows a step
):
    """One level: count, and the program that finishes last takes the bin where the wanted row lies."""
    edge = tl.load(control_ptr + EDGE)
    edge_row = tl.load(control_ptr + EDGE_ROW)
    left = tl.load(control_ptr + (WANTED if LEVEL == 0 else LEFT))
    if tl.load(control_ptr + COUNT) >= tl.load(control_ptr + END):  # all picks are made: nothing is left to do
        left = left * 0 - 1
    bins_ptr = counters_ptr + HISTOGRAM + LEVEL * BINS
    bins = tl.arange(0, BINS)
    own_ptr += tl.program_id(0) * BINS
    if left >= 0:
        if OWN:
            tl.store(own_ptr + bins, 0)
            tl.debug_barrier()
        for lo in range(tl.program_id(0).to(tl.int64) * B, rows, tl.num_programs(0).to(tl.int64) * B):
            row = lo + tl.arange(0, B)
            key = tl.load(key_ptr + row, mask=row < rows, other=-1.0)
            bits = key.to(tl.int64, bitcast=True)
            counted = key >= 0
            if OF_ROW:
                place = row ^ LAST_ROW  # the lowest row is highest
                counted &= bits == edge
                if not HIGHEST:
                    counted &= (place >> (SHIFT + WIDTH)) == ((edge_row ^ LAST_ROW) >> (SHIFT + WIDTH))
                bin = (place >> SHIFT) & ((1 << WIDTH) - 1)
            else:
                if not HIGHEST:
                    counted &= (bits >> (SHIFT + WIDTH)) == (edge >> (SHIFT + WIDTH))
                bin = (bits >> SHIFT) & ((1 << WIDTH) - 1)
            if OWN:
                tl.atomic_add(own_ptr + bin, 1, mask=counted, sem="relaxed")
            else:
                # Rows that do not count go to bin 0, and are taken off again.
                found = tl.histogram(tl.where(counted, bin, 0).to(tl.int32), BINS)
                found -= tl.where(bins == 0, tl.sum((counted == 0).to(tl.int32), 0), 0)
                tl.atomic_add(bins_ptr + bins, found, mask=found > 0, sem="relaxed")
        if OWN:
            tl.debug_barrier()
            found = tl.load(own_ptr + bins, volatile=True)
            tl.atomic_add(bins_ptr + bins, found, mask=found > 0, sem="relaxed")
    tl.debug_barrier()  # then the ticket's release covers what all threads added
    done = tl.atomic_add(counters_ptr + TICKET + LEVEL, 1)
    if (done == tl.num_programs(0) - 1) & (left >= 0):
        found = tl.load(bins_ptr + bins, volatile=True)
        below = tl.cumsum(found, 0) - found
        total = tl.sum(found, 0)
        from_here = total - below  # rows in this bin and above
        chosen = tl.max(tl.where(from_here >= left, bins, -1), 0)
        above = tl.sum(tl.where(bins > chosen, found, 0), 0)
        if chosen < 0:  # fewer rows than wanted (at level 0 only): all are in
            tl.store(control_ptr + EDGE, 0)
            tl.store(control_ptr + EDGE_ROW, LAST_ROW)
            tl.store(control_ptr + LEFT, -1)
            tl.store(control_ptr + CROWDED, 0)
        else:
            if OF_ROW:
                tl.store(control_ptr + EDGE_ROW, edge_row - (chosen.to(tl.int64) << SHIFT))
            else:
                tl.store(control_ptr + EDGE, (0 if LEVEL == 0 else edge) + (chosen.to(tl.int64) << SHIFT))
                tl.store(control_ptr + EDGE_ROW, LAST_ROW)
            tl.store(control_ptr + LEFT, left - above)
            if LEVEL == COARSE_LEVELS - 1:
                wanted = tl.load(control_ptr + WANTED)
                let_in = wanted - left + tl.sum(tl.where(bins >= chosen, found, 0), 0)
                tl.store(control_ptr + CROWDED, (let_in > 2 * wanted).to(tl.int64))


@triton.jit
def reaches(key, row, control_ptr):
    """Whether rows rank no lower than the edge; none does once all picks are made."""
    bits = key.to(tl.int64, bitcast=True)
    edge = tl.load(control_ptr + EDGE)
    open = tl.load(control_ptr + COUNT) < tl.load(control_ptr + END)
    return open & (key >= 0) & ((bits > edge) | ((bits == edge) & (row <= tl.load(control_ptr + EDGE_ROW))))


@triton.jit
def append_candidates(row, inside, counters_ptr, candidates_ptr, LIST: tl.constexpr):
    """Note rows as candidates, in any order: nothing depends on it. More than LIST are counted only."""
    first = tl.atomic_add(counters_ptr + INSIDE, tl.sum(inside.to(tl.int32), 0), sem="relaxed")
    place = first + tl.cumsum(inside.to(tl.int32), 0) - 1
    tl.store(candidates_ptr + place, row.to(tl.int32), mask=inside & (place < LIST))


@triton.jit
def age(seen, count):
    """0 for the rows that have seen fewest picks, up to AGE_BINS - 1."""
    return (seen.to(tl.int64) * AGE_BINS // tl.maximum(count, 1)).to(tl.int32)


@triton.jit(do_not_specialize=["rows", "span"])
def count_kernel(
    key_ptr,
    seen_ptr,  # [N] int32, picks that a row has been compared with
    rows,
    span,  # rows a program takes, a multiple of B
    control_ptr,
    counters_ptr,
    ages_ptr,  # [programs, AGE_BINS] int32
    candidates_ptr,  # [LIST] int32
    LIST: tl.constexpr,
    EAGER: tl.constexpr,  # refresh all rows, whether they can become candidates or not
    B: tl.constexpr,
):
    """Rows to refresh, by age; rows that are fresh and reach the edge are candidates at once."""
    count = tl.load(control_ptr + COUNT)
    open = count < tl.load(control_ptr + END)
    bins = tl.arange(0, 2 * AGE_BINS)
    ages = tl.zeros([2 * AGE_BINS], tl.int32)
    first = tl.program_id(0) * span.to(tl.int64)
    for lo in range(first, tl.minimum(first + span, rows), B):
        row = lo + tl.arange(0, B)
        key = tl.load(key_ptr + row, mask=row < rows, other=-1.0)
        seen = tl.load(seen_ptr + row, mask=row < rows, other=0)
        inside = reaches(key, row, control_ptr)
        stale = (seen < count) & (((key >= 0) & open) if EAGER else inside)
        ages += tl.histogram(tl.where(stale, age(seen, count), AGE_BINS), 2 * AGE_BINS)
        append_candidates(row, inside & (seen >= count), counters_ptr, candidates_ptr, LIST)
    tl.store(ages_ptr + tl.program_id(0) * AGE_BINS + bins, ages, mask=bins < AGE_BINS)


@triton.jit(do_not_specialize=["rows", "span"])
def scatter_kernel(
    key_ptr,
    seen_ptr,
    rows,
    span,
    control_ptr,
    counters_ptr,
    ages_ptr,
    stale_ptr,  # [N] int32
    EAGER: tl.constexpr,
    PROGRAMS: tl.constexpr,  # a power of two, as many as there are or more
    B: tl.constexpr,
):
    """List the rows to refresh, those with most to catch up on first: rows of like age share a tile.

    Within an age they stand in order. Same grid and span as `count_kernel`.
    """
    count = tl.load(control_ptr + COUNT)
    open = count < tl.load(control_ptr + END)
    bins, programs = tl.arange(0, AGE_BINS), tl.arange(0, PROGRAMS)[:, None]
    ages = tl.load(ages_ptr + programs * AGE_BINS + bins[None, :], mask=programs < tl.num_programs(0), other=0)
    total = tl.sum(ages, 0)
    offset = tl.cumsum(total, 0) - total + tl.sum(tl.where(programs < tl.program_id(0), ages, 0), 0)
    if tl.program_id(0) == 0:
        tl.store(counters_ptr + STALE, tl.sum(total, 0))
    first = tl.program_id(0) * span.to(tl.int64)
    for lo in range(first, tl.minimum(first + span, rows), B):
        row = lo + tl.arange(0, B)
        key = tl.load(key_ptr + row, mask=row < rows, other=-1.0)
        seen = tl.load(seen_ptr + row, mask=row < rows, other=0)
        stale = (seen < count) & (((key >= 0) & open) if EAGER else reaches(key, row, control_ptr))
        mine = (stale[:, None] & (age(seen, count)[:, None] == bins[None, :])).to(tl.int32)  # [B, AGE_BINS]
        place = tl.sum(mine * (offset[None, :] + tl.cumsum(mine, 0) - 1), 1)
        tl.store(stale_ptr + place, row.to(tl.int32), mask=stale)
        offset += tl.sum(mine, 0)
