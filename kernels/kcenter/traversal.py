"""Exact batched farthest-point traversal: the picks of the plain algorithm, in tens of passes over the rows.

Let m(x) be the distance of row x to its nearest pick; m never grows. One pass takes the rows with the largest bounds
as candidates, runs greedy among them for as long as the maximum is above every bound outside, and brings the bounds
of other rows up to date only when they could enter the candidates (a stale bound is still a bound). The proof is in
docs/algorithm.md; the arithmetic that makes it exact in exact.py and rounding.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..backends.base import KCenterLeaves
from ..ranking import Stop

_MOST_IDLE = 200  # passes in a row without a pick; a few happen, so many are a fault of a kernel or of a device


class Traversal:
    """One run of the driver over one set of leaves."""

    def __init__(
        self,
        name: str,
        leaves: KCenterLeaves,
        k: int,
        stop: Stop | None = None,
        picked: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        self.name, self.leaves, self.k, self.stop, self.picked = name, leaves, k, stop, picked
        self.passes = 0

    def run(
        self, first: tuple[int, float] | None, progress: Callable[[int, int], None] | None
    ) -> tuple[Tensor, Tensor]:
        """The picks [k] int64, or up to where to stop, and their squared distances [k] float64.

        Both are on the device of the features.

        `first` is a given start row with its squared distance.

        Raises
        ------
        RuntimeError : passes go on without a pick; the message has what they left behind.
        """
        device = self.leaves.features.device
        rows, squared = [], []
        if first is not None:
            rows.append(torch.full((1,), first[0], dtype=torch.int64, device=device))
            squared.append(torch.full((1,), first[1], dtype=torch.float64, device=device))
            self.leaves.append(rows[0])
            if self.picked is not None:
                self.picked(rows[0], squared[0])
        made, idle = len(rows), 0
        while made < self.k:
            found = self.leaves.advance(self.k - made)
            end = None if self.stop is None else self.stop.place(found.rows, found.squared)
            rows.append(found.rows[:end])
            squared.append(found.squared[:end])
            made += rows[-1].shape[0]
            self.passes += found.passes
            if self.picked is not None and rows[-1].shape[0]:
                self.picked(rows[-1], squared[-1])
            idle = 0 if found.rows.shape[0] else idle + found.passes
            if idle >= _MOST_IDLE:
                raise RuntimeError(
                    f"{self.name}: {idle} passes in a row made no pick, {made} of {self.k} are made: "
                    f"{self.leaves.state()}. Please report this with your device and versions"
                )
            if progress is not None:
                progress(made, self.k)
            if end is not None:
                break
        if self.passes == 0 and progress is not None:  # the given start was all
            progress(self.k, self.k)
        return torch.cat(rows), torch.cat(squared)
