"""Exact batched farthest-point traversal: the picks of the plain algorithm, in tens of passes over the rows.

Let m(x) be the distance of row x to its nearest pick; m never grows. One pass takes the rows with the largest bounds
as candidates, runs greedy among them for as long as the maximum is above every bound outside, and brings the bounds
of other rows up to date only when they could enter the candidates (a stale bound is still a bound). The proof is in
docs/algorithm.md; the arithmetic that makes it exact in exact.py and rounding.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..backends.base import KCenterLeaves
from ..ranking import Picks


class Traversal:
    """One run of the driver over one set of leaves."""

    def __init__(self, leaves: KCenterLeaves, k: int) -> None:
        self.leaves, self.k = leaves, k
        self.passes = 0

    def run(self, first: tuple[int, float] | None, progress: Callable[[int, int], None] | None) -> Picks:
        """All k picks. `first` is a given start row with its squared distance."""
        picks = Picks()
        if first is not None:
            picks.rows.append(first[0])
            picks.squared.append(first[1])
            self.leaves.append(torch.tensor(picks.rows, device=self.leaves.features.device))
        while len(picks.rows) < self.k:
            found = self.leaves.advance(self.k - len(picks.rows))
            picks.rows += found.rows
            picks.squared += found.squared
            self.passes += 1
            if progress is not None:
                progress(len(picks.rows), self.k)
        if self.passes == 0 and progress is not None:  # the given start was all
            progress(self.k, self.k)
        return picks
