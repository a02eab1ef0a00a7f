"""Exact batched farthest-point traversal: the picks of the plain algorithm, in tens of passes over the rows.

Let m(x) be the distance of row x to its nearest pick; m never grows. One pass takes the rows with the largest bounds
as candidates, runs greedy among them for as long as the maximum is above every bound outside, and brings the bounds
of other rows up to date only when they could enter the candidates (a stale bound is still a bound). The proof is in
docs/algorithm.md; the arithmetic that makes it exact in exact.py and rounding.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..backends import KCenterLeaves
from ..ranking import Picks, Rank
from ..tuning import Tuning

_TILE_ELEMENTS = 1 << 21


class Traversal:
    """One run of the driver over one set of leaves."""

    def __init__(self, leaves: KCenterLeaves, k: int, tuning: Tuning) -> None:
        self.leaves, self.k, self.tuning = leaves, k, tuning
        # Anywhere between k / 4 and 2 k costs about the same (docs/algorithm.md).
        room = max(256, _TILE_ELEMENTS // leaves.features.shape[1])  # rows that are copied stay few when they are wide
        self.batch = tuning.batch or min(max(1 << (k - 1).bit_length(), 256), 8192, room)
        self.ratio = 2.0  # rows refreshed for one candidate found, adapted as the run goes on
        self.stalled = False
        self.passes = 0
        self.distances = 0

    def run(self, first: tuple[int, float] | None, progress: Callable[[int, int], None] | None) -> Picks:
        """All k picks. `first` is a given start row with its squared distance."""
        picks = Picks()
        if first is not None:
            picks.rows.append(first[0])
            picks.squared.append(first[1])
            self.leaves.append(torch.tensor(picks.rows, device=self.leaves.features.device))
        while len(picks.rows) < self.k:
            rows, outside = self.candidates()
            found = self.leaves.resolve(rows, outside, self.k - len(picks.rows), self.tuning.block)
            picks.rows += found.rows
            picks.squared += found.squared
            self.stalled = not found.rows
            self.passes += 1
            if progress is not None:
                progress(len(picks.rows), self.k)
        if self.passes == 0 and progress is not None:  # the given start was all
            progress(self.k, self.k)
        return picks

    def candidates(self) -> tuple[Tensor, Rank | None]:
        """Refreshed rows [C], ascending, and the best rank that any other row can have."""
        leaves = self.leaves
        if not self.tuning.lazy:
            self.distances += leaves.refresh(None)
        while True:
            edge = leaves.edge(int(self.batch * (self.ratio if self.tuning.lazy else 1.0)))
            if edge == math.inf:  # nothing is known of most rows
                self.distances += leaves.refresh(None)
                edge = leaves.edge(self.batch)
            found = leaves.reach(edge, 2 * self.batch)
            self.distances += found.distances
            if edge == 0.0 or found.inside > 0:
                break
            self.ratio *= 4
        self.ratio = min(max(1.0, 0.5 * self.ratio * (1 + self.batch / max(1, found.inside))), 64.0)
        if found.rest is None:
            return found.rows, (Rank(edge, -leaves.features.shape[0]) if edge > 0 else None)
        # Many equal bounds, as with duplicates: the first in rank were kept, the rest is outside. If they are equal
        # only within the bounds' blur, settling a batch at a time would take a pass each: settle them all.
        if self.stalled and leaves.settle_all():
            return self.candidates()
        return found.rows, found.rest
