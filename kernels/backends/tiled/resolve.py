"""Greedy inside the candidate set: the picks that the plain float64 algorithm would make next.

The candidates hold upper bounds. The few at the top are settled in float64; among those the plain algorithm runs
for as long as its maximum is exact and beats every bound outside. A row that an accepted pick may have come closer
to turns into a bound again and is settled anew, against those picks only, when it reaches the top.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...ranking import Picks, Rank, take_top
from .base import KCenterTiles
from .bounds import Bounds


def resolve(tiles: KCenterTiles, bounds: Bounds, rows: Tensor, outside: Rank | None, quota: int, block: int) -> Picks:
    """Pick inside the candidates until the next pick may lie outside.

    Parameters
    ----------
    bounds : of the candidates, refreshed to all picks so far; updated in place.
    rows : [C] int64 ascending, their row numbers.
    outside : the best rank that a row outside can have, None if there is none.
    quota : at most this many picks.
    block : rows settled at a time; changes the speed only.
    """
    picks = Picks()
    tile = tiles.tile(rows)
    while quota > len(picks.rows):
        key = bounds.key()
        top, rest = take_top(key, rows, block)
        if top.shape[0] == 0:
            break
        limit = max((r for r in (rest, outside) if r is not None), default=Rank(-1.0, 0))
        best = int(top[key[top].argmax()])
        if outside is not None and float(key[best]) < outside.key:
            break
        settled = settle(tiles, bounds, rows, tile, top)
        positions, squared = greedy_in_block(
            tiles, bounds.take(top), rows[top], tile[top], limit, quota - len(picks.rows)
        )
        if not positions:
            if settled == 0:  # the top row is exact: only the outside holds it back
                break
            continue
        before = tiles.count
        accepted = top[torch.tensor(positions, device=top.device)]
        picks.rows += rows[accepted].tolist()
        picks.squared += squared
        tiles.append(rows[accepted])
        bounds.absorb(tiles.min_squared(tile, bounds.sq_norm, before, tiles.count), tiles.count)
        bounds.upper[accepted] = -1.0
    return picks


def settle(tiles: KCenterTiles, bounds: Bounds, rows: Tensor, tile: Tensor, top: Tensor) -> int:
    """Replace the bounds of the positions `top` by canonical values; returns how many were not exact before."""
    stale = top[bounds.exact_seen[top] < tiles.count]
    started = bounds.exact_seen[stale] > 0
    # Two groups: rows settled before need only the picks since then, new ones need all.
    for group in (stale[started], stale[~started]):
        if group.shape[0] == 0:
            continue
        part = bounds.take(group)
        found = tiles.exact_min(rows[group], tile[group], part.sq_norm, part.reach(), part.exact_seen)
        part.exact = torch.minimum(part.exact, found)
        part.upper = part.exact.clone()
        part.seen.fill_(tiles.count)
        part.exact_seen.fill_(tiles.count)
        bounds.put(group, part)
    return stale.shape[0]


def greedy_in_block(
    tiles: KCenterTiles, part: Bounds, rows: Tensor, tile: Tensor, limit: Rank, quota: int
) -> tuple[list[int], list[float]]:
    """The plain algorithm over a block of settled rows, on the host, while its maximum ranks above the limit.

    part, rows [P], tile [P, D] : of the block, rows ascending. Returns accepted positions and their squared distances.
    """
    fast = tiles.squared_block(tile, part.sq_norm)  # [P, P]
    # Column b: an upper bound on d(a, b)^2, and whether a may be nearer to b than every pick so far.
    widened = part.error.widen(fast.flatten(), part.sq_norm.repeat(rows.shape[0])).clamp_min(0)
    upper = widened.view_as(fast).div_(part.scale**2).cpu().numpy()
    nearer = (fast <= part.reach()).cpu().numpy()
    squared = part.upper.cpu().numpy().copy()  # exact, or a bound where `unsettled`
    exact = squared.copy()
    weight = None if part.weight is None else part.weight.cpu().numpy()
    row = rows.cpu().numpy()
    unsettled = np.zeros(len(row), dtype=bool)
    values: np.ndarray | None = None
    accepted: list[int] = []
    chosen: list[float] = []
    while len(accepted) < quota:
        key = squared
        if weight is not None:
            key = np.multiply(weight, squared, where=weight > 0, out=np.zeros_like(squared))
            key[squared < 0] = -1.0
        j = int(key.argmax())  # the first of equals, hence the lowest row
        if key[j] < 0 or Rank(float(key[j]), -int(row[j])) <= limit:
            break
        if unsettled[j]:
            if values is None:
                values = tiles.features.index_select(0, rows).double().cpu().numpy()
            close = [a for a in accepted if nearer[a, j]]
            squared[j] = min(exact[j], float(_squared(values[close], values[j]).min()))
            unsettled[j] = False
            continue
        accepted.append(j)
        chosen.append(float(squared[j]))
        np.minimum(squared, upper[j], out=squared, where=squared >= 0)
        squared[j] = -1.0
        if not part.error.exact:
            unsettled |= nearer[j]
    return accepted, chosen


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # [A, D], [D] float64 -> [A]
    """Canonical squared distances on the host: exact.halving_sum with NumPy, the same additions in the same order."""
    v = (x - y) ** 2
    width = v.shape[1]
    while width > 1:
        half = (width + 1) // 2
        v[:, : width - half] += v[:, half:width]
        width = half
    return v[:, 0]
