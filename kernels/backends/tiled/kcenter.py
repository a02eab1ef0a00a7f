"""The leaves of k-center greedy from tiles of fast distances and the bounds they give."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ranking import Picks, Rank, take_top
from ..stepwise import Reached
from .base import KCenterTiles
from .bounds import Bounds
from .resolve import resolve, settle

_TILE_ROWS = 8192  # read at a time when refreshing
_TILE_ELEMENTS = 1 << 21


class TiledKCenter:
    """See stepwise.KCenterSteps for the contract."""

    def __init__(self, tiles: KCenterTiles, initial: Tensor, weight: Tensor | None) -> None:
        self.tiles = tiles
        self.features = tiles.features
        self.bounds = Bounds.start(initial, tiles.sq_norm, weight, tiles.error, tiles.scale)
        self.tile_rows = min(_TILE_ROWS, max(256, _TILE_ELEMENTS // tiles.features.shape[1]))

    @property
    def count(self) -> int:
        """Picks appended."""
        return self.tiles.count

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `resolve`."""
        self.tiles.append(rows)
        self.bounds.upper[rows] = -1.0

    def edge(self, wanted: int) -> float:
        """The wanted-th largest key; 0.0 where there are not that many rows."""
        key = self.bounds.key()
        if wanted >= key.shape[0]:
            return 0.0
        return max(0.0, float(torch.topk(key, wanted, sorted=False).values.min()))

    def refresh(self, rows: Tensor | None) -> int:
        """Bring the bounds of these rows (all if None) up to every pick made so far; returns distances computed."""
        picks, distances = self.tiles.count, 0
        seen = self.bounds.seen if rows is None else self.bounds.seen[rows]
        stale = (seen < picks).nonzero().squeeze(1)
        if stale.shape[0] == 0:
            return 0
        order = seen[stale].argsort(stable=True)  # rows of like age share a tile
        stale = stale[order] if rows is None else rows[stale[order]]
        for part in stale.split(self.tile_rows):
            lo = int(self.bounds.seen[part[0]])
            local = self.bounds.take(part)
            local.absorb(self.tiles.min_squared(self.tiles.tile(part), local.sq_norm, lo, picks), picks)
            self.bounds.put(part, local)
            distances += part.shape[0] * (picks - lo)
        return distances

    def reach(self, edge: float, most: int) -> Reached:
        """The rows that reach the edge once they are refreshed; the first `most` in rank."""
        rows = (self.bounds.key() >= edge).nonzero().squeeze(1)
        distances = self.refresh(rows)
        key = self.bounds.take(rows).key()
        inside = (key >= edge).nonzero().squeeze(1)
        rows, rest = rows[inside], None
        if rows.shape[0] > most:
            chosen, rest = take_top(key[inside], rows, most)
            rows = rows[chosen]
        return Reached(rows, inside.shape[0], rest, distances)

    def settle_all(self) -> int:
        """Make the bounds of all rows exact; returns how many were not."""
        bounds = self.bounds
        loose = ((bounds.exact_seen < self.tiles.count) & (bounds.upper >= 0)).nonzero().squeeze(1)
        for part in loose.split(self.tile_rows):
            local = bounds.take(part)
            settle(self.tiles, local, part, self.tiles.tile(part), torch.arange(len(part), device=part.device))
            bounds.put(part, local)
        return loose.shape[0]

    def resolve(self, rows: Tensor, outside: Rank | None, quota: int, block: int) -> Picks:
        """The next picks among `rows`, appended."""
        part = self.bounds.take(rows)
        found = resolve(self.tiles, part, rows, outside, quota, block)
        self.bounds.put(rows, part)
        return found
