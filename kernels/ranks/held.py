"""Rows of which each rank holds a part, or one process all: the same words for both."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .group import Ranks
from .kcenter import rows_of


class Held:
    """Rows x [N_r, D] of this rank and those of the others, in the order of ranks; without ranks, all rows.

    What is said of each row, such as a mask, is held whole, [N], by every rank.
    """

    def __init__(self, ranks: Ranks | None, x: Tensor) -> None:
        self.ranks, self.x = ranks, x
        self.counts = [x.shape[0]] if ranks is None else ranks.counts(x.shape[0])
        self._ends = list(accumulate(self.counts))
        self._rank = 0 if ranks is None else ranks.rank
        self.first, self.total = self._ends[self._rank] - x.shape[0], self._ends[-1]

    @property
    def group(self) -> Any:
        """The process group, None for one process."""
        return None if self.ranks is None else self.ranks.group

    def rows(self, numbers: Tensor) -> Tensor:
        """The rows of these global numbers [S] int64, on every rank, where x is: [S, D]."""
        if self.ranks is None:
            return self.x[numbers.to(self.x.device)]
        return rows_of(self.ranks, self.x, self.counts, numbers.cpu()).to(self.x.device)

    def own(self, whole: Tensor) -> Tensor:
        """This rank's part of what is said of all rows: [N, ...] -> [N_r, ...]."""
        return whole[self.first : self.first + self.x.shape[0]]

    def whole(self, own: Tensor) -> Tensor:
        """What each rank says of its rows, put together: [N_r, ...] -> [N, ...], on the CPU."""
        return own.cpu() if self.ranks is None else self.ranks.gather(own, self.counts)

    def joined(self, parts: Tensor) -> Tensor:
        """Numbers of which each was filled in by one rank, and is 0 on the others, on all: int64 or float64."""
        return parts if self.ranks is None else self.ranks.sum(parts)

    def blocks(self, label: Tensor, labels: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The rows of each label in turn, for this rank to deal with: (label, numbers [S] ascending, rows [S, D]).

        label [N] int64 of 0..labels-1. Each comes on one rank: the one that holds its rows or, of several, the first.
        All ranks go through all of it together, as rows of one label may have to be brought together.
        """
        order = label.argsort(stable=True)
        sizes = torch.bincount(label, minlength=labels).tolist()
        for which, numbers in enumerate(order.split(sizes)):
            if not numbers.shape[0]:
                continue
            low, high = int(numbers[0]), int(numbers[-1])
            owner, last = (bisect_right(self._ends, row) for row in (low, high))
            if owner == last == self._rank:
                low, high = low - self.first, high - self.first
                # As a rule they lie together, and a slice copies nothing.
                together = high - low + 1 == numbers.shape[0]
                local = numbers - self.first
                yield which, numbers, self.x[low : high + 1] if together else self.x[local.to(self.x.device)]
            elif owner != last:
                rows = self.rows(numbers)
                if owner == self._rank:
                    yield which, numbers, rows
