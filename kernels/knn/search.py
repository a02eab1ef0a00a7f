"""Exact k nearest neighbours: filter fast, settle the survivors in float64. All comparisons are of squares.

Per tile of queries a backend keeps the few smallest fast distances. With F_k the k-th smallest, widen(F_k) bounds the
true k-th distance, and every true neighbour has F <= widen(widen(F_k)): those are recomputed in float64 and ranked by
(distance, row). A query with more survivors than were kept (many equal rows) is searched again without a limit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import KnnLeaves
from ..exact import paired_squared, root

_SPARE = 7  # kept beyond k; ties of more rows than this take the slow road


def search(leaves: KnnLeaves, query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """query [Q, D], bank [M, D] -> distances [Q, k] float32 ascending, rows [Q, k] int64."""
    distance = torch.empty(query.shape[0], k, dtype=torch.float32, device=query.device)
    rows = torch.empty(query.shape[0], k, dtype=torch.int64, device=query.device)
    for lo in range(0, query.shape[0], leaves.tile_rows):
        part = slice(lo, lo + leaves.tile_rows)
        values, rows[part] = _search_tile(leaves, query[part], bank, k)
        distance[part] = root(values).float()
    return distance, rows


def _search_tile(leaves: KnnLeaves, query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    tile = leaves.frame.rows(query)
    sq_norm = tile.square().sum(1)
    keep = min(bank.shape[0], k + _SPARE)
    fast, ids = leaves.smallest(tile, keep)
    fast = fast.double().add_(sq_norm[:, None])
    reach = leaves.error.widen(leaves.error.widen(fast[:, k - 1], sq_norm), sq_norm)

    # Survivors in row order, so that a stable sort by distance leaves ties to the lowest row.
    ids, order = ids.sort(dim=1)
    survives = fast.gather(1, order) <= reach[:, None]
    i, slot = survives.nonzero(as_tuple=True)
    exact = torch.full(ids.shape, torch.inf, dtype=torch.float64, device=query.device)
    exact[i, slot] = paired_squared(query, i, bank, ids[i, slot])
    exact, order = exact.sort(dim=1, stable=True)
    squared, rows = exact[:, :k], ids.gather(1, order[:, :k])

    if keep < bank.shape[0]:
        crowded = (fast[:, -1] <= reach).nonzero().squeeze(1)
        # A few at a time: their survivors are held as a dense block of the bank tile.
        for some in crowded.split(64):
            squared[some], rows[some] = _search_all(leaves, query[some], tile[some], bank, k, (reach - sq_norm)[some])
    return squared, rows


def _search_all(
    leaves: KnnLeaves, query: Tensor, tile: Tensor, bank: Tensor, k: int, limit: Tensor
) -> tuple[Tensor, Tensor]:
    """Settle every bank row within the limit, with a running top-k in (distance, row) order."""
    # float32 holds the limit only rounded: step up, the bound allows for it.
    limit = limit.float()
    limit = torch.nextafter(limit, torch.full_like(limit, torch.inf))
    best = torch.full((query.shape[0], k), torch.inf, dtype=torch.float64, device=query.device)
    rows = torch.zeros((query.shape[0], k), dtype=torch.int64, device=query.device)
    for lo, inside in leaves.within(tile, limit):
        i, j = inside.nonzero(as_tuple=True)
        exact = torch.full(inside.shape, torch.inf, dtype=torch.float64, device=query.device)
        exact[i, j] = paired_squared(query, i, bank, j + lo)
        # Earlier tiles hold lower rows and come first: the stable sort keeps them first among equals.
        every = torch.arange(lo, lo + inside.shape[1], device=query.device).expand(inside.shape)
        best, order = torch.cat([best, exact], 1).sort(dim=1, stable=True)
        best, rows = best[:, :k], torch.cat([rows, every], 1).gather(1, order[:, :k])
    return best, rows
