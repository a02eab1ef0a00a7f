"""Exact batched farthest-point traversal: the picks of the plain algorithm, in tens of passes over the rows.

Let m(x) be the distance of row x to its nearest pick; m never grows. One pass takes the rows with the largest bounds
as candidates, runs greedy among them for as long as the maximum is above every bound outside, and brings the bounds
of other rows up to date only when they could enter the candidates (a stale bound is still a bound). The proof is in
docs/algorithm.md; the arithmetic that makes it exact in exact.py and rounding.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends import KCenterLeaves
from ..checks import check_int
from .bounds import Bounds
from .resolve import Picks, Rank, resolve, settle, take_top

_TILE_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Tuning:
    """Sizes that change the speed and never the picks."""

    batch: int | None = None  # candidates a pass; None: from k
    block: int = 512  # candidates settled at a time
    lazy: bool = True  # refresh only rows that could become candidates
    tile_rows: int = 8192  # rows read at a time when refreshing

    def __post_init__(self) -> None:
        """Every size is a positive integer."""
        for name in ("batch", "block", "tile_rows"):
            if name != "batch" or self.batch is not None:
                check_int("Tuning", name, getattr(self, name), 1, 1 << 40)


class Traversal:
    """One run of the driver over one set of leaves."""

    def __init__(self, leaves: KCenterLeaves, bounds: Bounds, k: int, tuning: Tuning) -> None:
        self.leaves, self.bounds, self.k, self.tuning = leaves, bounds, k, tuning
        # Anywhere between k / 4 and 2 k costs about the same (docs/algorithm.md).
        room = max(256, _TILE_ELEMENTS // leaves.features.shape[1])  # rows that are copied stay few when they are wide
        self.batch = tuning.batch or min(max(1 << (k - 1).bit_length(), 256), 8192, room)
        self.tile_rows = min(tuning.tile_rows, room)
        self.ratio = 2.0  # rows refreshed for one candidate found, adapted as the run goes on
        self.stalled = False
        self.passes = 0
        self.distances = 0

    def run(self, first: tuple[int, float] | None, progress: Callable[[int, int], None] | None) -> Picks:
        """All k picks. `first` is a given start row with its squared distance."""
        picks = Picks()
        if first is not None:
            self._accept_first(*first, picks)
        while len(picks.rows) < self.k:
            rows, outside = self.candidates()
            part = self.bounds.take(rows)
            found = resolve(self.leaves, part, rows, outside, self.k - len(picks.rows), self.tuning.block)
            self.bounds.put(rows, part)
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
        if not self.tuning.lazy:
            self.refresh(None)
        while True:
            key = self.bounds.key()
            wanted = int(self.batch * (self.ratio if self.tuning.lazy else 1.0))
            edge = 0.0
            if wanted < key.shape[0]:
                edge = max(0.0, float(torch.topk(key, wanted, sorted=False).values.min()))
            pool = (key >= edge).nonzero().squeeze(1)
            self.refresh(pool)
            key = self.bounds.take(pool).key()
            inside = (key >= edge).nonzero().squeeze(1)
            if edge == 0.0 or inside.shape[0] > 0:
                break
            self.ratio *= 4
        self.ratio = min(max(1.0, 0.5 * self.ratio * (1 + self.batch / max(1, inside.shape[0]))), 64.0)
        rows = pool[inside]
        if rows.shape[0] <= 2 * self.batch:
            return rows, (Rank(edge, -self.bounds.upper.shape[0]) if edge > 0 else None)
        # Many equal bounds, as with duplicates: keep the first in rank, the rest is outside. If they are equal only
        # within the bounds' blur, settling a batch at a time would take a pass each: settle them all.
        if self.stalled and self.settle_all():
            return self.candidates()
        chosen, rest = take_top(key[inside], rows, 2 * self.batch)
        return rows[chosen], rest

    def settle_all(self) -> int:
        """Make the bounds of all rows exact; returns how many were not."""
        bounds = self.bounds
        loose = ((bounds.exact_seen < self.leaves.count) & (bounds.upper >= 0)).nonzero().squeeze(1)
        for part in loose.split(self.tile_rows):
            local = bounds.take(part)
            settle(self.leaves, local, part, self.leaves.tile(part), torch.arange(len(part), device=part.device))
            bounds.put(part, local)
        return loose.shape[0]

    def refresh(self, rows: Tensor | None) -> None:
        """Bring the bounds of these rows (all if None) up to every pick made so far."""
        picks = self.leaves.count
        seen = self.bounds.seen if rows is None else self.bounds.seen[rows]
        stale = (seen < picks).nonzero().squeeze(1)
        if stale.shape[0] == 0:
            return
        order = seen[stale].argsort(stable=True)  # rows of like age share a tile
        stale = stale[order] if rows is None else rows[stale[order]]
        for part in stale.split(self.tile_rows):
            lo = int(self.bounds.seen[part[0]])
            local = self.bounds.take(part)
            local.absorb(self.leaves.min_squared(self.leaves.tile(part), local.sq_norm, lo, picks), picks)
            self.bounds.put(part, local)
            self.distances += part.shape[0] * (picks - lo)

    def _accept_first(self, row: int, squared: float, picks: Picks) -> None:
        picks.rows.append(row)
        picks.squared.append(squared)
        self.leaves.append(torch.tensor([row], device=self.bounds.upper.device))
        self.bounds.upper[row] = -1.0
