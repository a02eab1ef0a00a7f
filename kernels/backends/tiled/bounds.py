"""What is known of each row's squared distance to its nearest pick, and how new picks change it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...rounding import ErrorBound


@dataclass
class Bounds:
    """Per-row knowledge, for all rows or for a subset; 28 bytes a row.

    upper is never below the true squared minimum distance, however stale. Where exact_seen == seen it is the canonical
    float64 value over the first `seen` picks. A picked row has upper = -1.
    """

    upper: Tensor  # [R] float64
    exact: Tensor  # [R] float64, canonical minimum over the first exact_seen picks
    seen: Tensor  # [R] int32, picks covered by upper
    exact_seen: Tensor  # [R] int32
    sq_norm: Tensor  # [R] float32, squared norm in the frame
    weight: Tensor | None  # [R] float64, squared
    error: ErrorBound
    scale: float

    @classmethod
    def start(cls, initial: Tensor, sq_norm: Tensor, weight: Tensor | None, error: ErrorBound, scale: float) -> Bounds:
        """Nothing picked yet: the caller's initial distances (squared), exact by definition."""
        zero = torch.zeros_like(sq_norm, dtype=torch.int32)
        return cls(initial, initial.clone(), zero, zero.clone(), sq_norm, weight, error, scale)

    def take(self, rows: Tensor) -> Bounds:
        """A copy for some rows."""
        return Bounds(
            self.upper.index_select(0, rows),
            self.exact.index_select(0, rows),
            self.seen.index_select(0, rows),
            self.exact_seen.index_select(0, rows),
            self.sq_norm.index_select(0, rows),
            None if self.weight is None else self.weight.index_select(0, rows),
            self.error,
            self.scale,
        )

    def put(self, rows: Tensor, part: Bounds) -> None:
        """Write a subset back."""
        self.upper[rows] = part.upper
        self.exact[rows] = part.exact
        self.seen[rows] = part.seen
        self.exact_seen[rows] = part.exact_seen

    def key(self) -> Tensor:  # [R] float64
        """What greedy maximises, squared; -1 for picked rows. Zero weight means zero, also times inf."""
        if self.weight is None:
            return self.upper
        key = torch.where(self.weight > 0, self.weight * self.upper, 0.0)
        return key.masked_fill_(self.upper < 0, -1.0)

    def reach(self) -> Tensor:  # [R] float64
        """The largest fast squared distance that a pick no farther than upper can show."""
        return self.error.widen(self.upper * self.scale**2, self.sq_norm)

    def absorb(self, fast: Tensor, picks: int) -> None:
        """Take in the fast minimum (squared, in the frame) over the picks seen..picks.

        fast : [R] float64.
        """
        # A fast value out of reach proves that no new pick is nearer: an exact bound stays exact. So does zero.
        settled = (self.exact_seen == self.seen) & ((fast > self.reach()) | (self.upper == 0))
        widened = self.error.widen(fast, self.sq_norm).clamp_min(0).div_(self.scale**2)
        torch.minimum(self.upper, widened, out=self.upper)
        self.seen.fill_(picks)
        if self.error.exact:
            self.exact.copy_(self.upper)
            self.exact_seen.fill_(picks)
        else:
            self.exact_seen.masked_fill_(settled, picks)
