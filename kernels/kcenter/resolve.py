"""Greedy inside the candidate set: the picks that the plain float64 algorithm would make next.

The candidates hold upper bounds. The few at the top are settled in float64; among those the plain algorithm runs
for as long as its maximum is exact and beats every bound outside. A row that an accepted pick may have come closer
to turns into a bound again and stops the run when it reaches the top; it is settled in the next round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..backends import KCenterLeaves
from .bounds import Bounds


@dataclass(frozen=True, order=True)
class Rank:
    """Place in the greedy order: the larger key first, then the lower row."""

    key: float
    minus_row: int


@dataclass
class Picks:
    """Accepted rows, in order, with their distances at selection."""

    rows: list[int] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)


def take_top(key: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Rank | None]:
    """Positions (ascending) of the `count` first in rank, and the rank of the best one left out.

    key [C] float64, rows [C] int64 ascending. Picked rows (key < 0) are never taken.
    """
    if count >= key.shape[0]:
        return (key >= 0).nonzero().squeeze(1), None
    edge = torch.topk(key, count + 1).values[-1]
    above = (key > edge).nonzero().squeeze(1)
    level = (key == edge).nonzero().squeeze(1)  # ascending: ties go to the lowest rows
    if edge < 0:
        return above, None
    fill = count - above.shape[0]
    chosen = torch.cat([above, level[:fill]]).sort().values
    return chosen, Rank(float(edge), -int(rows[level[fill]]))


def resolve(
    leaves: KCenterLeaves, bounds: Bounds, rows: Tensor, outside: Rank | None, quota: int, block: int
) -> Picks:
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
    tile = leaves.tile(rows)
    while quota > len(picks.rows):
        key = bounds.key()
        top, rest = take_top(key, rows, block)
        if top.shape[0] == 0:
            break
        limit = max((r for r in (rest, outside) if r is not None), default=Rank(-1.0, 0))
        best = int(top[key[top].argmax()])
        if outside is not None and float(key[best]) < outside.key:
            break
        settled = settle(leaves, bounds, rows, tile, top)
        accepted = _greedy_in_block(leaves, bounds, rows, tile, top, limit, quota - len(picks.rows), picks)
        if accepted.shape[0] == 0:
            if settled == 0:  # the top row is exact: only the outside holds it back
                break
            continue
        before = leaves.count
        leaves.append(rows[accepted])
        bounds.absorb(leaves.min_squared(tile, bounds.sq_norm, before, leaves.count), leaves.count)
        bounds.upper[accepted] = -1.0
    return picks


def settle(leaves: KCenterLeaves, bounds: Bounds, rows: Tensor, tile: Tensor, top: Tensor) -> int:
    """Replace the bounds of the positions `top` by canonical values; returns how many were not exact before."""
    stale = top[bounds.exact_seen[top] < leaves.count]
    started = bounds.exact_seen[stale] > 0
    # Two groups: rows settled before need only the picks since then, new ones need all.
    for group in (stale[started], stale[~started]):
        if group.shape[0] == 0:
            continue
        part = bounds.take(group)
        lo = int(part.exact_seen.min())
        found = leaves.exact_min(rows[group], tile[group], part.sq_norm, part.reach(), lo, leaves.count)
        part.exact = torch.minimum(part.exact, found)
        part.upper = part.exact.clone()
        part.seen.fill_(leaves.count)
        part.exact_seen.fill_(leaves.count)
        bounds.put(group, part)
    return stale.shape[0]


def _greedy_in_block(
    leaves: KCenterLeaves, bounds: Bounds, rows: Tensor, tile: Tensor, top: Tensor, limit: Rank, quota: int, picks: Picks
) -> Tensor:
    """The plain algorithm over the settled rows `top`, on the host. Returns the accepted positions, in order."""
    part = bounds.take(top)
    fast = leaves.squared_block(tile[top], part.sq_norm)  # [P, P]
    # Column b: the upper bound on d(a, b), and whether a may be nearer to b than all picks so far.
    squared = bounds.error.widen(fast.flatten(), part.sq_norm.repeat(top.shape[0])).clamp_min_(0)
    upper = squared.view_as(fast).sqrt_().div_(bounds.scale).cpu().numpy()
    nearer = (fast <= part.reach()).cpu().numpy()
    distance = part.upper.cpu().numpy().copy()
    weight = None if part.weight is None else part.weight.cpu().numpy()
    row = rows[top].cpu().numpy()
    unsettled = np.zeros(len(row), dtype=bool)
    accepted: list[int] = []
    while len(accepted) < quota:
        key = distance if weight is None else np.where(distance < 0, -1.0, np.where(weight > 0, weight * distance, 0.0))
        j = int(key.argmax())  # the first of equals, hence the lowest row
        if key[j] < 0 or unsettled[j] or Rank(float(key[j]), -int(row[j])) < limit:
            break
        accepted.append(j)
        picks.rows.append(int(row[j]))
        picks.radii.append(float(distance[j]))
        picked = distance < 0
        np.minimum(distance, upper[j], out=distance)
        distance[picked] = -1.0
        distance[j] = -1.0
        if not bounds.error.exact:
            unsettled |= nearer[j]
    return top[torch.tensor(accepted, dtype=torch.int64, device=top.device)]
