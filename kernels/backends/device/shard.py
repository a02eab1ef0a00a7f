"""The leaves of one rank of a group on a device: rows and what is known of them stay there.

The update and the exact distances are the kernels of a pass. Which rows they take is decided here, with torch: the edge
comes from all ranks, so the host has to wait in any case. Few candidates go to it.
"""

from __future__ import annotations

from collections.abc import Callable

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
        self._told = 0  # distances that callers have been told of

    def key(self) -> Tensor:
        """[N] float64: of every row, as far as it is known; -1 once it is picked."""
        return self.leaves.key

    def append_guests(self, rows: Tensor, own: Tensor) -> None:
        """Add picks: rows [B, D], own [B] int64 their numbers here, -1 of another rank's."""
        self.leaves.append_guests(rows)
        self.leaves.key[own[own >= 0].to(self.features.device)] = -1.0

    def refresh(self, rows: Tensor | None) -> int:
        """Compare these rows (all if None) with every pick they have not seen; returns the distances computed."""
        self.leaves.refresh(rows)
        done, self._told = self.leaves.distances - self._told, self.leaves.distances
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
        return Settled(rows.cpu(), self.leaves.settle(rows).cpu(), inside, rest, distances)

    def settle_all(self) -> int:
        """Make every bound exact; returns how many were not."""
        return self.leaves.settle_all()


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
