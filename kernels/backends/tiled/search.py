"""Exact k nearest neighbours: filter fast, settle the survivors in float64. All comparisons are of squares.

Per tile of queries a backend keeps the few smallest fast distances. With F_k the k-th smallest, widen(F_k) bounds the
true k-th distance, and every true neighbour has F <= widen(widen(F_k)): those are recomputed in float64 and ranked by
(distance, row). A query with more survivors than were kept is crowded, mostly by equal bank rows. It is searched again
without those that have k equal rows before them, and if still crowded, without a limit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...exact import paired_squared
from ...rounding import row_norms
from .base import KnnTiles

_SPARE = 7  # kept beyond k
_KEPT_ELEMENTS = 1 << 21


def search(
    make_tiles: Callable[[Tensor, Tensor], KnnTiles], query: Tensor, bank: Tensor, k: int, thin: bool = True
) -> tuple[Tensor, Tensor]:
    """query [Q, D], bank [M, D] -> squared distances [Q, k] float64 ascending, rows [Q, k] int64."""
    tiles = make_tiles(query, bank)
    squared = torch.empty(query.shape[0], k, dtype=torch.float64, device=query.device)
    rows = torch.empty(query.shape[0], k, dtype=torch.int64, device=query.device)
    step = max(1, min(tiles.tile_rows, _KEPT_ELEMENTS // k))
    left = torch.zeros(query.shape[0], dtype=torch.bool, device=query.device)
    for lo in range(0, query.shape[0], step):
        part = slice(lo, lo + step)
        squared[part], rows[part], left[part] = _search_tile(tiles, query[part], bank, k)
    again = left.nonzero().squeeze(1)
    if again.shape[0] == 0:
        return squared, rows
    keep = _without_surplus_twins(bank, k) if thin else None
    if keep is not None and keep.shape[0] < bank.shape[0]:
        squared[again], found = search(make_tiles, query[again], bank[keep], k, thin=False)
        rows[again] = keep[found]
        return squared, rows
    # A few at a time: their survivors are held as a dense block of the bank tile.
    for some in again.split(64):
        squared[some], rows[some] = _search_all(tiles, query[some], bank, k)
    return squared, rows


def _without_surplus_twins(bank: Tensor, k: int) -> Tensor:
    """Bank rows [M'] ascending, less those with k equal rows before them: no query can have them as neighbours."""
    _, group = torch.unique(bank.float() if bank.element_size() < 4 else bank, dim=0, return_inverse=True)
    group, order = group.sort(stable=True)  # rows ascend within a group
    rank = torch.arange(len(group), device=bank.device) - torch.searchsorted(group, group)
    return order[rank < k].sort().values


def _search_tile(tiles: KnnTiles, query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances and rows [Q, k], and whether each query [Q] is crowded, its results void."""
    tile = tiles.frame.rows(query)
    sq_norm = row_norms(tile)
    keep = min(bank.shape[0], k + _SPARE)
    fast, ids = tiles.smallest(tile, keep)
    fast = fast.double().add_(sq_norm[:, None])
    reach = tiles.error.widen(tiles.error.widen(fast[:, k - 1], sq_norm), sq_norm)
    crowded = (fast[:, -1] <= reach) if keep < bank.shape[0] else torch.zeros_like(reach, dtype=torch.bool)

    # Survivors in row order, so that a stable sort by distance tiles ties to the lowest row.
    ids, order = ids.sort(dim=1)
    survives = (fast.gather(1, order) <= reach[:, None]) & ~crowded[:, None]
    i, slot = survives.nonzero(as_tuple=True)
    exact = torch.full(ids.shape, torch.inf, dtype=torch.float64, device=query.device)
    exact[i, slot] = paired_squared(query, i, bank, ids[i, slot])
    exact, order = exact.sort(dim=1, stable=True)
    return exact[:, :k], ids.gather(1, order[:, :k]), crowded


def _search_all(tiles: KnnTiles, query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Settle every bank row in reach, with a running top-k in (distance, row) order."""
    tile = tiles.frame.rows(query)
    sq_norm = row_norms(tile)
    nearest = tiles.smallest(tile, k)[0][:, -1].double().add_(sq_norm)
    limit = tiles.error.widen(tiles.error.widen(nearest, sq_norm), sq_norm).sub_(sq_norm).float()
    # float32 holds the limit only rounded: step up, the bound allows for it.
    limit = torch.nextafter(limit, torch.full_like(limit, torch.inf))
    best = torch.full((query.shape[0], k), torch.inf, dtype=torch.float64, device=query.device)
    rows = torch.zeros((query.shape[0], k), dtype=torch.int64, device=query.device)
    for lo, inside in tiles.within(tile, limit):
        i, j = inside.nonzero(as_tuple=True)
        exact = torch.full(inside.shape, torch.inf, dtype=torch.float64, device=query.device)
        exact[i, j] = paired_squared(query, i, bank, j + lo)
        # Earlier tiles hold lower rows and come first: the stable sort keeps them first among equals.
        every = torch.arange(lo, lo + inside.shape[1], device=query.device).expand(inside.shape)
        best, order = torch.cat([best, exact], 1).sort(dim=1, stable=True)
        best, rows = best[:, :k], torch.cat([rows, every], 1).gather(1, order[:, :k])
    return best, rows
