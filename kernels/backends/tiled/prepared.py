"""k-NN in a bank made ready once: short rows exclude most of it, the rest is settled in float64 (short_rows.py).

Per tile of queries the few bank rows of least short distance are settled: the k-th of their distances bounds the k-th
there is. Whatever is no farther has a short row within `between` of it. Where that may be more rows than were settled,
all of them are looked for, in a second pass over short rows. Where they are very many, the query is searched plainly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...exact import paired_squared, root
from ...rounding import choose_frame, row_norms
from ...short_rows import leading_directions, short_rows, slack_of
from ..base import Work
from .base import KnnTiles
from .search import search

_COUNTS = (31, 63)
_MOST = 64  # neighbours up to which short rows are tried
_SPARE = 15  # settled beyond k
_TOGETHER = 256  # queries of a second pass
_PAIRS = 1 << 19  # found for them at most: else they are searched plainly
_LOST = 0.5  # of the queries of a call, searched plainly after all: the next calls do not try
_LONGEST = 256  # calls between trials
_ROWS, _QUERIES = 2048, 2048  # bank rows and queries from which short rows can pay


class TiledPrepared:
    """See base.PreparedRows. `make_tiles` of (query, bank)."""

    def __init__(self, make_tiles: Callable[[Tensor, Tensor], KnnTiles], bank: Tensor, prune: str) -> None:
        self._make_tiles, self._bank, self._prune = make_tiles, bank, prune
        self._frame = choose_frame("prepare", bank=bank)[0]
        self._directions: Tensor | None = None
        self._rest = self._pause = 0  # calls that do not try, of which so many were asked for
        self.columns, self.work = 0, Work()
        few = prune == "auto" and bank.shape[0] < _ROWS
        self._wait = None if prune == "none" or few else 0 if prune == "partial" else _QUERIES
        if self._wait == 0:
            self._shorten()

    @property
    def nbytes(self) -> int:
        """Held beside the bank."""
        return 0 if self._directions is None else self._directions.nbytes + self._short.nbytes

    def _shorten(self) -> None:
        self._wait = None
        made = leading_directions(
            self._bank, self._frame.centre, self._frame.scale, _COUNTS, 0, self._prune == "partial"
        )
        if made is None:
            return
        self._slack = slack_of(made[0])
        self._short = short_rows(self._bank, self._frame.centre, self._frame.scale, made[0])
        self._directions, self.columns = made[0], made[0].shape[1] + 1

    def knn(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See base.PreparedRows."""
        self.work.pairs += query.shape[0] * self._bank.shape[0]
        if self._wait is not None and self.work.pairs >= self._wait * self._bank.shape[0]:
            self._shorten()
        if self._directions is None or k > _MOST or (self._prune == "auto" and self._rest > 0):
            self._rest -= 1
            return self._plain(query, k)
        short = short_rows(query, self._frame.centre, self._frame.scale, self._directions)
        if not bool(
            (row_norms(short) < torch.inf).all()
        ):  # too long for float32 here, or not finite, which is told there
            return self._plain(query, k)
        squared = torch.empty(query.shape[0], k, dtype=torch.float64, device=query.device)
        rows = torch.empty(query.shape[0], k, dtype=torch.int64, device=query.device)
        left = torch.zeros(query.shape[0], dtype=torch.bool, device=query.device)
        tiles = self._make_tiles(short, self._short)
        for lo in range(0, query.shape[0], tiles.tile_rows):
            part = slice(lo, lo + tiles.tile_rows)
            squared[part], rows[part], left[part] = self._tile(tiles, query[part], short[part], k)
        again = left.nonzero().squeeze(1)
        if again.shape[0]:
            squared[again], rows[again] = self._plain(query[again], k)
        lost = again.shape[0] > _LOST * query.shape[0]
        self._rest = self._pause = min(_LONGEST, 2 * self._pause + 1) if lost else 0
        return squared, rows

    def _plain(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        self.work.full += query.shape[0] * self._bank.shape[0]
        return search(self._make_tiles, query, self._bank, k)

    def _tile(self, tiles: KnnTiles, query: Tensor, short: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Squared distances and rows [Q, k], and whether each query [Q] is to be searched plainly, its results void."""
        total = self._bank.shape[0]
        tile = tiles.frame.rows(short)
        sq_norm = row_norms(tile)
        keep = min(total, k + _SPARE)
        fast, ids = tiles.smallest(tile, keep)
        self.work.short += query.shape[0] * total
        ids = ids.sort(dim=1).values  # a stable sort by distance then leaves ties to the lowest row
        squared, rows = self._settled(query, ids, k)
        # In the frame of the bank, with what canonical squares lose to underflow; then in that of the short rows.
        lost = self._bank.shape[1] * 2.0**-140
        distance = root(squared[:, -1] * (self._frame.scale**2 * (1 + 1e-9)) + lost)
        between = self._slack.between(distance, self._slack.longest(short)) * tiles.frame.scale
        limit = tiles.error.widen(between.square() * (1 + 1e-12), sq_norm)
        open_ = (fast[:, -1].double() + sq_norm <= limit).nonzero().squeeze(1) if keep < total else ids.new_empty(0)
        left = torch.zeros(query.shape[0], dtype=torch.bool, device=query.device)
        # float32 holds the limit only rounded: step up, the bound allows for it.
        top = (limit - sq_norm).float()
        top = torch.nextafter(top, torch.full_like(top, torch.inf))
        for some in open_.split(_TOGETHER):
            self.work.short += some.shape[0] * total
            found = self._within(tiles, tile[some], top[some])
            if found is None:
                left[some] = True
            else:
                squared[some], rows[some] = self._nearest(query[some], *found, k)
        return squared, rows, left

    def _settled(self, query: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest [Q, k] of rows [Q, C], ascending."""
        of = torch.arange(query.shape[0], device=query.device).repeat_interleave(ids.shape[1])
        self.work.settled += ids.numel()
        exact = paired_squared(query, of, self._bank, ids.reshape(-1)).view(ids.shape)
        exact, order = exact.sort(dim=1, stable=True)
        return exact[:, :k], ids.gather(1, order[:, :k])

    def _within(self, tiles: KnnTiles, tile: Tensor, limit: Tensor) -> tuple[Tensor, Tensor] | None:
        """Pairs (query, row) [P] that may be near enough, rows ascending; None where they are too many."""
        pairs, count = [], 0
        for lo, inside in tiles.within(tile, limit):
            i, j = inside.nonzero(as_tuple=True)
            pairs.append((i, j + lo))
            count += i.shape[0]
            if count > _PAIRS:
                return None
        i, j = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return i, j

    def _nearest(self, query: Tensor, of: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest [Q, k] of pairs (query, row) [P], rows ascending, at least k a query."""
        self.work.settled += ids.shape[0]
        exact = paired_squared(query, of, self._bank, ids)
        order = exact.argsort(stable=True)
        order = order[of[order].argsort(stable=True)]
        first = torch.searchsorted(of[order], torch.arange(query.shape[0], device=query.device))
        chosen = order[first[:, None] + torch.arange(k, device=query.device)]
        return exact[chosen], ids[chosen]
