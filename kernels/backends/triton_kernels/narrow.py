"""Where more candidates were found than there is room for: the first of them in rank, and an edge behind these."""

from __future__ import annotations

import triton
import triton.language as tl

from .layout import EDGE, EDGE_ROW, FOUND, INSIDE, LAST_ROW

BINS = tl.constexpr(256)  # few: Triton 3.6 counts a histogram bin by bin


@triton.jit
def narrow_kernel(
    key_ptr,
    control_ptr,
    counters_ptr,
    candidates_ptr,  # [LIST] int32
    LIST: tl.constexpr,
    ROOM: tl.constexpr,
    B: tl.constexpr,  # candidates a step
):
    """ROOM / 2 to ROOM of them stay, by histograms of the range of keys, at last among rows of one key by row.

    All candidates are fresh, so their keys rank them; rows behind the new edge are no candidates of this pass. A list
    that has overflowed is given up: the rows have been refreshed, and the next cut is an exact one. One program.
    """
    found = tl.load(counters_ptr + INSIDE)
    tl.store(control_ptr + FOUND, found.to(tl.int64))
    if found > LIST:
        tl.store(counters_ptr + INSIDE, 0)
    elif found > ROOM:
        low = tl.load(control_ptr + EDGE)
        high = low
        for lo in range(0, found, B):
            at = lo + tl.arange(0, B)
            row = tl.load(candidates_ptr + at, mask=at < found, other=0)
            key = tl.load(key_ptr + row, mask=at < found, other=-1.0)
            high = tl.maximum(high, tl.max(key.to(tl.int64, bitcast=True), 0))
        bins = tl.arange(0, BINS)
        cut_key, cut_row, above, by_row, going = low, low * 0 + LAST_ROW, 0, low < 0, found > 0
        while going:
            shift = low * 0
            while ((high - low) >> shift) >= BINS:
                shift += 1
            counts = tl.zeros([BINS], tl.int32)
            for lo in range(0, found, B):
                at = lo + tl.arange(0, B)
                row = tl.load(candidates_ptr + at, mask=at < found, other=0).to(tl.int64)
                key = tl.load(key_ptr + row, mask=at < found, other=-1.0)
                bits = key.to(tl.int64, bitcast=True)
                value = tl.where(by_row, LAST_ROW - row, bits)
                counted = (at < found) & ((by_row == 0) | (bits == cut_key)) & (value >= low) & (value <= high)
                # Rows that do not count go to bin 0, and are taken off again.
                counts += tl.histogram(tl.where(counted, (value - low) >> shift, 0).to(tl.int32), BINS)
                counts -= tl.where(bins == 0, tl.sum((counted == 0).to(tl.int32), 0), 0)
            reached = above + tl.sum(counts, 0) - tl.cumsum(counts, 0) + counts  # in this bin and above
            fits = reached <= ROOM
            # Fewer rows than ROOM are above and more are there, so some bin does not fit.
            first = tl.min(tl.where(fits, bins, BINS), 0)
            above = tl.maximum(above, tl.max(tl.where(fits, reached, 0), 0))
            start = low + ((first - 1).to(tl.int64) << shift)
            wide = tl.full([], 1, tl.int64) << shift
            # Infinity's bits are near the end of int64.
            end = tl.where(high - start < wide, high, start + wide - 1)
            going = above < ROOM // 2
            if by_row:
                cut_row = LAST_ROW - end - 1
            else:
                cut_key = tl.where(going, start, end)
                cut_row = tl.where(going, cut_row, -1)
            low, high = start, end
            if shift == 0:  # one key: the rows that have it
                by_row = by_row | (shift == 0)
                low, high = low * 0, low * 0 + LAST_ROW
        kept = 0
        for lo in range(0, found, B):
            at = lo + tl.arange(0, B)
            row = tl.load(candidates_ptr + at, mask=at < found, other=0)
            key = tl.load(key_ptr + row, mask=at < found, other=-1.0)
            bits = key.to(tl.int64, bitcast=True)
            inside = (at < found) & ((bits > cut_key) | ((bits == cut_key) & (row <= cut_row)))
            place = kept + tl.cumsum(inside.to(tl.int32), 0) - 1
            tl.debug_barrier()  # all of a step is read before its places, which are no further on, are written
            tl.store(candidates_ptr + place, row, mask=inside)
            tl.debug_barrier()
            kept += tl.sum(inside.to(tl.int32), 0)
        tl.store(counters_ptr + INSIDE, kept)
        tl.store(control_ptr + EDGE, cut_key)
        tl.store(control_ptr + EDGE_ROW, cut_row)
