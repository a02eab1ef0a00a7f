"""Places in the two small tensors through which the kernels of a pass speak to each other and to the host.

csrc/cuda/layout.h has the same numbers, compared when the library is loaded; triton_kernels/layout.py gives them to
triton.
"""

from __future__ import annotations

# control, int64: what lives on from pass to pass.
COUNT = 0  # picks made
END = 1  # picks asked for, those given included
WANTED = 2  # rows that the edge should let in
LEFT = 3  # of those, still to be found below the bins that are decided; -1: fewer rows than wanted
EDGE = 4  # bits of the key that a candidate must reach,
EDGE_ROW = 5  # and among rows of that very key, the last row that does
BEST = 6  # bits of the best key left out of the block, -1 if none was,
BEST_ROW = 7  # and its lowest row
ACCEPTED = 8  # picks of the last pass that had some to make
DISTANCES = 9  # computed in refreshing rows
FOUND = 10  # candidates of this pass, before they were narrowed to those there is room for
CROWDED = 11  # whether a coarse cut lets in more than twice the rows wanted: then an exact one is worth its launches
PASSES = 12  # that had picks to make
CONTROL = 16  # length

# counters, int32: zero when a pass begins; behind them the histograms.
STALE = 0  # rows to refresh
INSIDE = 1  # candidates
DOUBT = 2  # candidates whose nearest pick is not certain
BLOCK = 3  # candidates that greedy runs over
PAIRS = 4  # of them, pairs that may be near
QUEUE = 5  # jobs of the update that blocks have taken (CUDA)
TICKET = 8  # one a histogram: programs that are done
HISTOGRAM = 32

AGE_BINS = 16
BINS = 2048
LAST_ROW = (1 << 31) - 1  # no row has this number: there are fewer, by a tile or more
# Histograms that decide a cut to the last bit: lowest bit and number of bits of the key, then of the row.
LEVELS = ((52, 11), (41, 11), (30, 11), (19, 11), (8, 11), (0, 8), (20, 11), (9, 11), (0, 9))
KEY_LEVELS = 6
COARSE_LEVELS = 2  # these decide the exponent and 11 bits behind it
COUNTERS = HISTOGRAM + len(LEVELS) * BINS  # length
