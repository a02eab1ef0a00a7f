"""The leaves of one rank of a group on a device: rows and what is known of them stay there.

The update and the exact distances are the kernels of a pass. Which rows they take is decided here, with torch: the edge
comes from all ranks, so the host has to wait in any case. Few candidates go to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...ranking import take_top
from ...together import Together
from ..base import KCenterJob, Settled
from .frame import Look, Rows, look_at_all
from .kcenter import DeviceKCenter


class DeviceShard:
    """See base.ShardLeaves for the contract, DeviceKCenter for the memory; 8 bytes a row more while rows are chosen."""

    def __init__(self, leaves: DeviceKCenter) -> None:
        self.leaves = leaves
        self.features = leaves.features
        self._uncounted = 0  # distances that no caller has been told of

    def key(self) -> Tensor:
        """[N] float64: of every row, as far as it is known; -1 once it is picked."""
        return self.leaves.key

    def append_guests(self, rows: Tensor, own: Tensor) -> None:
        """Add picks: rows [B, D], own [B] int64 their numbers here, -1 of another rank's."""
        self.leaves.append_guests(rows)
        self.leaves.key[own[own >= 0].to(self.features.device)] = -1.0

    def refresh(self, rows: Tensor | None) -> int:
        """Compare these rows (all if None) with every pick they have not seen; returns the distances computed."""
        leaves = self.leaves
        seen = leaves.seen if rows is None else leaves.seen[rows]
        behind = seen < leaves.count
        if rows is None:
            behind &= leaves.key >= 0
        stale = behind.nonzero().squeeze(1)
        seen, order = seen[stale].sort(stable=True)  # rows of like age share a tile
        if stale.shape[0]:
            leaves.refresh_some(stale[order] if rows is None else rows[stale[order]])
        done, self._uncounted = int((leaves.count - seen.long()).sum()) + self._uncounted, 0
        return done

    def reach_settled(self, edge: float, most: int) -> Settled:
        """Bring up to date the rows not picked whose key reaches the edge, and settle those that still do."""
        key = self.leaves.key
        rows = (key >= edge).nonzero().squeeze(1)
        distances = self.refresh(rows)
        rows = rows[key[rows] >= edge]
        inside, rest = rows.shape[0], None
        if inside > most:
            chosen, rest = take_top(key[rows], rows, most)
            rows = rows[chosen]
        return Settled(rows.cpu(), self._settle(rows).cpu(), inside, rest, distances)

    def settle_all(self) -> int:
        """Make every bound exact; returns how many were not."""
        self._uncounted = self.refresh(None)
        rows = (self.leaves.key >= 0).nonzero().squeeze(1)
        before = self.leaves.key[rows]
        self._settle(rows)
        return int((self.leaves.key[rows] != before).sum())

    def _settle(self, rows: Tensor) -> Tensor:
        """True squared distances [R] of fresh rows [R], kept as their keys."""
        leaves = self.leaves
        squared = leaves.settle_some(rows)
        weight = None if leaves.job.weight is None else leaves.job.weight[rows]
        leaves.key[rows] = squared if weight is None else torch.where(weight > 0, weight * squared, 0.0)
        return squared


def shard_of(
    make: Callable[[KCenterJob, Rows], DeviceKCenter], look: Look, job: KCenterJob, together: Together
) -> DeviceShard | None:
    """The leaves of this rank, None where it has no rows; all ranks call it.

    Raises
    ------
    Whatever fails here; where another rank fails, RankError.
    """
    others = look_at_all(job.name, job.features, look, together)
    return together.agree(lambda: DeviceShard(make(job, others)) if job.features.shape[0] else None)
