"""Places in the two small tensors through which the kernels of a pass speak to each other and to the host."""

from __future__ import annotations

import triton.language as tl

# control, int64: what lives on from pass to pass; behind it stand the pass's picks and their squared distances.
COUNT = tl.constexpr(0)  # picks made
END = tl.constexpr(1)  # picks asked for, those given included
WANTED = tl.constexpr(2)  # rows that the edge should let in
LEFT = tl.constexpr(3)  # of those, still to be found below the bins that are decided; -1: fewer rows than wanted
EDGE = tl.constexpr(4)  # bits of the key that a candidate must reach,
EDGE_ROW = tl.constexpr(5)  # and among rows of that very key, the last row that does
BEST = tl.constexpr(6)  # bits of the best key left out of the block, -1 if none was,
BEST_ROW = tl.constexpr(7)  # and its lowest row
ACCEPTED = tl.constexpr(8)  # picks of this pass
DISTANCES = tl.constexpr(9)  # computed in refreshing rows
FOUND = tl.constexpr(10)  # candidates of this pass; more than there is room for: none was looked at
CONTROL = tl.constexpr(16)  # length

# counters, int32: zero when a pass begins; behind them the histograms.
STALE = tl.constexpr(0)  # rows to refresh
INSIDE = tl.constexpr(1)  # candidates
DOUBT = tl.constexpr(2)  # candidates whose nearest pick is not certain
BLOCK = tl.constexpr(3)  # candidates that greedy runs over
PAIRS = tl.constexpr(4)  # of them, pairs that may be near
TICKET = tl.constexpr(8)  # one a histogram: programs that are done
HISTOGRAM = tl.constexpr(32)

AGE_BINS = tl.constexpr(16)
BINS = tl.constexpr(2048)
LAST_ROW = tl.constexpr((1 << 31) - 1)  # no row has this number: there are fewer, by a tile or more
# Histograms that decide a cut to the last bit: lowest bit and number of bits of the key, then of the row.
LEVELS = ((52, 11), (41, 11), (30, 11), (19, 11), (8, 11), (0, 8), (20, 11), (9, 11), (0, 9))
KEY_LEVELS = 6
COARSE_LEVELS = 2  # these decide the exponent and 11 bits behind it
