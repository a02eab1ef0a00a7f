"""A pass of the driver in steps, for backends whose host is next to the data: each step's outcome decides the next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..ranking import Picks, Rank
from .base import PATIENCE, Found, KCenterJob

_TILE_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Reached:
    """Candidates: refreshed rows whose key reaches an edge."""

    rows: Tensor  # [C] int64 ascending; where there are more than asked for, the first in rank
    inside: int  # how many there are
    rest: Rank | None  # the first in rank of those left out, None if none was
    distances: int  # computed on the way


class KCenterSteps(Protocol):
    """What a backend gives.

    The key of a row is what greedy maximises: its squared distance, weighted if asked, or an upper bound of it from
    the picks it has been compared with; -1 once it is picked.
    """

    features: Tensor  # [N, D] as the caller has them

    @property
    def count(self) -> int:
        """Picks appended."""

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `resolve`; they are never candidates again."""

    def edge(self, wanted: int) -> float:
        """The wanted-th largest key; 0.0 where there are not that many rows."""

    def refresh(self, rows: Tensor | None) -> int:
        """Compare these rows (all if None) with every pick they have not seen; returns the distances computed."""

    def reach(self, edge: float, most: int) -> Reached:
        """Bring up to date the rows not picked whose key reaches the edge, and say which of them still do."""

    def settle_all(self) -> int:
        """Make every bound exact; returns how many were not."""

    def resolve(self, rows: Tensor, outside: Rank | None, quota: int, block: int) -> Picks:
        """Append and return the next picks among `rows` [C] (ascending, refreshed), in the order of plain greedy.

        Stops where the next pick may rank behind `outside` (the best that a row elsewhere can be; None: nothing is
        elsewhere) or after `quota`. `block` candidates are considered at a time; it changes the speed only.
        """


class Stepwise:
    """See base.KCenterLeaves for the contract."""

    def __init__(self, steps: KCenterSteps, job: KCenterJob) -> None:
        self.steps, self.tuning = steps, job.tuning
        self.features = steps.features
        # Anywhere between k / 4 and 2 k costs about the same (docs/algorithm.md).
        room = max(256, _TILE_ELEMENTS // self.features.shape[1])  # rows that are copied stay few when they are wide
        self.batch = self.tuning.batch or min(max(1 << (job.k - 1).bit_length(), 256), 8192, room)
        self.ratio = 2.0  # rows refreshed for one candidate found, adapted as the run goes on
        self.stalled, self.idle = False, 0
        self.distances = 0

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `advance`."""
        self.steps.append(rows)

    def advance(self, quota: int) -> Found:
        """One pass: candidates, then the next picks among them."""
        if self.idle >= PATIENCE:
            # Where all distances are smaller than the bounds' blur, a pass would only settle its own few candidates.
            self.steps.settle_all()
            self.idle = 0
        rows, outside = self._candidates()
        found = self.steps.resolve(rows, outside, quota, self.tuning.block)
        self.stalled = not found.rows
        self.idle = self.idle + 1 if self.stalled else 0
        device = self.features.device
        return Found(
            torch.tensor(found.rows, dtype=torch.int64, device=device),
            torch.tensor(found.squared, dtype=torch.float64, device=device),
            passes=1,
        )

    def state(self) -> str:
        """What the passes so far have left behind."""
        steps = self.steps
        return f"{steps.count} picks, the largest bound {steps.edge(1)}, {self.ratio:g} rows refreshed a candidate"

    def _candidates(self) -> tuple[Tensor, Rank | None]:
        """Refreshed rows [C], ascending, and the best rank that any other row can have."""
        steps = self.steps
        if not self.tuning.lazy:
            self.distances += steps.refresh(None)
        while True:
            edge = steps.edge(int(self.batch * (self.ratio if self.tuning.lazy else 1.0)))
            if edge == math.inf:  # nothing is known of most rows
                self.distances += steps.refresh(None)
                edge = steps.edge(self.batch)
            found = steps.reach(edge, 2 * self.batch)
            self.distances += found.distances
            if edge == 0.0 or found.inside > 0:
                break
            self.ratio *= 4
        self.ratio = min(max(1.0, 0.5 * self.ratio * (1 + self.batch / max(1, found.inside))), 64.0)
        if found.rest is None:
            return found.rows, (Rank(edge, -self.features.shape[0]) if edge > 0 else None)
        # Many equal bounds, as with duplicates: the first in rank were kept, the rest is outside. If they are equal
        # only within the bounds' blur, settling a batch at a time would take a pass each: settle them all.
        if self.stalled and steps.settle_all():
            return self._candidates()
        return found.rows, found.rest
