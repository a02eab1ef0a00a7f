"""The leaf kernels in plain torch: library matrix products over tiles, any device.

Tiles are sized to stay in cache (CPU) or to fill the device (CUDA); results do not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..exact import paired_squared
from ..rounding import ErrorBound, choose_frame, row_norms
from ..together import Together
from ..tuning import Budget
from .base import Backend, KCenterJob, KCenterLeaves, Settled, ShardLeaves
from .stepwise import Stepwise
from .tiled import TiledKCenter, TiledPrepared, search
from .tiled.resolve import settle

_TILE = {"cpu": (2048, 1024), "cuda": (32768, 2048)}  # rows, picks: 8 MB and 256 MB of distances


class TorchKCenter:
    """Tiles for `k_center_greedy` over one [N, D] tensor. See tiled.KCenterTiles for the contract."""

    def __init__(self, name: str, features: Tensor, capacity: int, together: Together | None = None) -> None:
        self.features = features  # [N, D], as the caller has them
        self.device = features.device
        self.frame, self.sq_norm = choose_frame(name, together, features=features)
        self.error: ErrorBound = self.frame.error
        self.scale = self.frame.scale
        self.count = 0
        self._picks = torch.empty(capacity, features.shape[1], dtype=torch.float32, device=self.device)
        self._pick_norm = torch.empty(capacity, dtype=torch.float32, device=self.device)
        self._pick_row = torch.empty(capacity, dtype=torch.int64, device=self.device)
        self._picked_from = features  # whose rows the picks are
        if together is not None:
            self._picked_from = features.new_empty(capacity, features.shape[1])
            torch.arange(capacity, out=self._pick_row)
        self._tile_rows, self._tile_picks = _TILE.get(self.device.type, _TILE["cuda"])
        self._scratch = torch.empty(0, dtype=torch.float32, device=self.device)

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks; they are addressed afterwards by their order."""
        part = slice(self.count, self.count + rows.shape[0])
        self._picks[part] = self.tile(rows)
        self._pick_norm[part] = self.sq_norm[rows]
        self._pick_row[part] = rows
        self.count = part.stop

    def append_guests(self, rows: Tensor) -> None:  # [B, D]
        """Add picks of other ranks' rows, and of this one's as well."""
        part = slice(self.count, self.count + rows.shape[0])
        self._picked_from[part] = rows.to(self.device)
        framed = self.frame.rows(self._picked_from[part])
        self._picks[part] = framed
        self._pick_norm[part] = row_norms(framed)
        self.count = part.stop

    def tile(self, rows: Tensor) -> Tensor:  # [R] int64 -> [R, D] float32
        """Rows of the features in the frame."""
        return self.frame.rows(self.features.index_select(0, rows))

    def min_squared(self, tile: Tensor, sq_norm: Tensor, lo: int, hi: int) -> Tensor:
        """Smallest fast squared distance of each row to the picks lo..hi.

        tile [R, D] float32, sq_norm [R] -> [R] float64; inf where lo == hi.
        """
        best = torch.full((tile.shape[0],), torch.inf, dtype=torch.float32, device=self.device)
        for a in range(0, tile.shape[0], self._tile_rows):
            rows = slice(a, a + self._tile_rows)
            for b in range(lo, hi, self._tile_picks):
                block = self._block(tile[rows], b, min(b + self._tile_picks, hi))
                torch.minimum(best[rows], block.amin(1), out=best[rows])
        return best.double().add_(sq_norm)

    def squared_block(self, tile: Tensor, sq_norm: Tensor) -> Tensor:
        """Fast squared distances among the rows of one small tile: [R, D], [R] -> [R, R] float64."""
        block = torch.addmm(sq_norm, tile, tile.t(), alpha=-2)
        return block.double().add_(sq_norm[:, None])

    def exact_min(self, rows: Tensor, tile: Tensor, sq_norm: Tensor, reach: Tensor, since: Tensor) -> Tensor:
        """Canonical squared distance of each row to the nearest pick in reach, from pick since[row] on.

        rows [R] int64, tile [R, D], sq_norm [R], reach [R] float64, since [R] int32 -> [R] float64; inf where no
        pick is in reach. Only the pairs in reach, one or two a row as a rule, are computed in float64.
        """
        best = torch.full((rows.shape[0],), torch.inf, dtype=torch.float64, device=self.device)
        # float32 holds the threshold only rounded: step up, the bound allows for it.
        limit = (reach - sq_norm).float()
        limit = torch.nextafter(limit, torch.full_like(limit, torch.inf))[:, None]
        for a in range(0, rows.shape[0], self._tile_rows):
            part = slice(a, a + self._tile_rows)
            for b in range(int(since.min()), self.count, self._tile_picks):
                block = self._block(tile[part], b, min(b + self._tile_picks, self.count))
                i, j = (block <= limit[part]).nonzero(as_tuple=True)
                i, j = i + a, j + b
                fresh = j >= since[i]
                i, j = i[fresh], j[fresh]
                exact = paired_squared(self.features, rows[i], self._picked_from, self._pick_row[j])
                best.scatter_reduce_(0, i, exact, "amin")
        return best

    def _block(self, tile: Tensor, lo: int, hi: int) -> Tensor:  # [R, D] -> [R, hi - lo], |y|^2 - 2 x.y
        rows, picks = tile.shape[0], hi - lo
        if self._scratch.numel() < rows * picks:
            self._scratch = torch.empty(rows * picks, dtype=torch.float32, device=self.device)
        out = self._scratch[: rows * picks].view(rows, picks)
        return torch.addmm(self._pick_norm[lo:hi], tile, self._picks[lo:hi].t(), alpha=-2, out=out)


class TorchKnn:
    """Tiles for `knn` over one bank. See tiled.KnnTiles for the contract."""

    def __init__(self, name: str, query: Tensor, bank: Tensor, memory_limit: int | None = None) -> None:
        self.frame, self.sq_norm = choose_frame(name, bank=bank, query=query)
        self.error: ErrorBound = self.frame.error
        self.bank = bank
        self.tile_rows, self._tile_bank = _TILE.get(bank.device.type, _TILE["cuda"])
        # A block and its copies on the way to the smallest; the other half is for what is settled of it.
        while memory_limit is not None and 32 * self.tile_rows * self._tile_bank > memory_limit and self.tile_rows > 64:
            self.tile_rows, self._tile_bank = self.tile_rows // 2, max(64, self._tile_bank // 2)
        # Small banks are converted once; large ones tile by tile, so that nothing M x D is allocated.
        self._whole = self.frame.rows(bank) if bank.shape[0] <= 4 * self._tile_bank else None

    def smallest(self, tile: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` smallest fast squared distances (without |x|^2) of each query row, ascending, and their rows.

        tile [Q, D] float32 in the frame -> [Q, count] float32, [Q, count] int64. Among equals any may come.
        """
        best: tuple[Tensor, Tensor] | None = None
        for lo, block in self._blocks(tile):
            values, ids = torch.topk(block, min(count, block.shape[1]), dim=1, largest=False)
            ids += lo
            if best is not None:
                values, ids = torch.cat([best[0], values], 1), torch.cat([best[1], ids], 1)
                values, order = torch.topk(values, min(count, values.shape[1]), dim=1, largest=False)
                ids = ids.gather(1, order)
            best = values, ids
        assert best is not None  # a bank has rows
        return best

    def within(self, tile: Tensor, limit: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Which bank rows may be within the limit, tile by tile: (first bank row, mask [Q, B]).

        limit [Q] float32, of the fast value without |x|^2.
        """
        for lo, block in self._blocks(tile):
            yield lo, block <= limit[:, None]

    def _blocks(self, tile: Tensor) -> Iterator[tuple[int, Tensor]]:
        for lo in range(0, self.bank.shape[0], self._tile_bank):
            part = slice(lo, lo + self._tile_bank)
            rows = self.frame.rows(self.bank[part]) if self._whole is None else self._whole[part]
            yield lo, torch.addmm(self.sq_norm[part], tile, rows.t(), alpha=-2)


class TorchShard(TiledKCenter):
    """Tiles for one rank's rows. See base.ShardLeaves for the contract."""

    tiles: TorchKCenter

    def key(self) -> Tensor:
        """[N] float64: of every row, as far as it is known; -1 once it is picked."""
        return self.bounds.key()

    def append_guests(self, rows: Tensor, own: Tensor) -> None:
        """Add picks: rows [B, D], own [B] int64 their numbers here, -1 of another rank's."""
        self.tiles.append_guests(rows)
        self.bounds.upper[own[own >= 0].to(self.features.device)] = -1.0

    def reach_settled(self, edge: float, most: int) -> Settled:
        """Bring up to date the rows not picked whose key reaches the edge, and settle those that still do."""
        found = self.reach(edge, most)
        part, tile = self.bounds.take(found.rows), self.tiles.tile(found.rows)
        settle(self.tiles, part, found.rows, tile, torch.arange(len(tile), device=tile.device))
        self.bounds.put(found.rows, part)
        return Settled(found.rows.cpu(), part.upper.cpu(), found.inside, found.rest, found.distances)


def _shard(job: KCenterJob, together: Together) -> ShardLeaves | None:
    tiles = TorchKCenter(job.name, job.features, job.given + job.k, together)
    return TorchShard(tiles, job.initial, job.weight) if job.features.shape[0] else None


def _refuse(device: torch.device) -> str | None:
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        return None if torch.cuda.is_available() else "torch finds no CUDA device"
    return f"devices of type {device.type} have no float64 or are untested; move the features to the CPU"


def _k_center(job: KCenterJob) -> KCenterLeaves:
    tiles = TorchKCenter(job.name, job.features, job.given + job.k)
    return Stepwise(TiledKCenter(tiles, job.initial, job.weight), job)


def _knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    return search(lambda q, b: TorchKnn("knn", q, b, budget.memory_limit), query, bank, k)


def _prepare(bank: Tensor, prune: str) -> TiledPrepared:
    return TiledPrepared(lambda q, b: TorchKnn("knn", q, b), bank, prune)


TORCH = Backend("torch", _refuse, _k_center, _shard, _knn, lambda: "library matrix products", prepare=_prepare)
