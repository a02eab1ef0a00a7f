"""device/layout.py as constants of kernels: triton reads globals of no other type."""

from __future__ import annotations

import triton.language as tl

from ..device import layout
from ..device.layout import KEY_LEVELS, LEVELS

__all__ = ["KEY_LEVELS", "LEVELS"]

COUNT = tl.constexpr(layout.COUNT)
END = tl.constexpr(layout.END)
WANTED = tl.constexpr(layout.WANTED)
LEFT = tl.constexpr(layout.LEFT)
EDGE = tl.constexpr(layout.EDGE)
EDGE_ROW = tl.constexpr(layout.EDGE_ROW)
BEST = tl.constexpr(layout.BEST)
BEST_ROW = tl.constexpr(layout.BEST_ROW)
ACCEPTED = tl.constexpr(layout.ACCEPTED)
DISTANCES = tl.constexpr(layout.DISTANCES)
FOUND = tl.constexpr(layout.FOUND)
CROWDED = tl.constexpr(layout.CROWDED)
PASSES = tl.constexpr(layout.PASSES)
CONTROL = tl.constexpr(layout.CONTROL)
COARSE_LEVELS = tl.constexpr(layout.COARSE_LEVELS)

STALE = tl.constexpr(layout.STALE)
INSIDE = tl.constexpr(layout.INSIDE)
DOUBT = tl.constexpr(layout.DOUBT)
BLOCK = tl.constexpr(layout.BLOCK)
PAIRS = tl.constexpr(layout.PAIRS)
TICKET = tl.constexpr(layout.TICKET)
HISTOGRAM = tl.constexpr(layout.HISTOGRAM)

AGE_BINS = tl.constexpr(layout.AGE_BINS)
BINS = tl.constexpr(layout.BINS)
LAST_ROW = tl.constexpr(layout.LAST_ROW)
