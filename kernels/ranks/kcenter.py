"""k-center greedy over the ranks of a process group: the picks of one process that held all rows, index for index.

A pass, as all ranks make it together (docs/scale.md has the proof and the costs):

1. edge     histograms of the keys, added up, give a value that enough rows of all ranks reach;
2. reach    each rank brings its rows above the edge up to date and settles them in float64;
3. gather   what is known of these candidates, then, of the first in rank, the rows themselves, go to every rank;
4. resolve  every rank runs the same greedy over the same rows: no rank has to be told the outcome;
5. append   the rows picked are in the gather already.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends.base import PATIENCE, KCenterJob, Settled, ShardLeaves
from ..ranking import Rank, Stop, take_top
from ..tuning import Budget, Tuning
from .edge import SharedEdge
from .group import Ranks

_MOST_BATCH = 4096  # twice as many candidates may be gathered in a pass: 4 MB of rows at 128 columns
_TILE_ELEMENTS = 1 << 20
_MOST_RATIO = 64.0
_MOST_IDLE = 200
# (rows [T, D], squared [T] float64, weight [T] float64 or None, outside, quota, block) -> places and squared distances
Resolve = Callable[[Tensor, Tensor, "Tensor | None", "Rank | None", int, int], "tuple[list[int], list[float]]"]


@dataclass(frozen=True)
class Shard:
    """What this rank brings."""

    features: Tensor  # [N_r, D]
    weight: Tensor | None  # [N_r] float64 squared, of one scale on all ranks
    leaves: ShardLeaves | None  # None: no rows
    counts: list[int]  # N_r of every rank

    @property
    def rows(self) -> int:
        """N, of all ranks."""
        return sum(self.counts)


class RankTraversal:
    """One run of the driver over the shards of all ranks."""

    def __init__(self, ranks: Ranks, shard: Shard, k: int, tuning: Tuning, resolve: Resolve) -> None:
        self.ranks, self.shard, self.k, self.tuning, self._resolve = ranks, shard, k, tuning, resolve
        room = max(256, _TILE_ELEMENTS // shard.features.shape[1])
        batch = tuning.batch or min(max(1 << (k - 1).bit_length(), 256), _MOST_BATCH, room)
        self.batch = batch
        self.offset = sum(shard.counts[: ranks.rank])
        self.passes = self.distances = 0
        self._shared = SharedEdge(ranks)
        self._ratio, self._stalled = 2.0, False

    def rows_of(self, rows: Tensor) -> Tensor:
        """The rows of these numbers [S] int64, on every rank: [S, D]."""
        return rows_of(self.ranks, self.shard.features, self.shard.counts, rows)

    def append(self, rows: Tensor, vectors: Tensor) -> None:
        """Picks made: their numbers [B] int64, and themselves [B, D]."""
        if self.shard.leaves is not None and rows.shape[0]:
            self.shard.leaves.append_guests(vectors, self._mine(rows))

    def _mine(self, rows: Tensor) -> Tensor:
        """Row numbers as this rank counts its own, -1 for others."""
        local = rows - self.offset
        return torch.where((local >= 0) & (local < self.shard.features.shape[0]), local, -1)

    def run(
        self,
        first: tuple[int, float] | None,
        stop: float | None,
        progress: Callable[[int, int], None] | None,
        picked: Callable[[Tensor, Tensor], None] | None,
    ) -> tuple[Tensor, Tensor]:
        """Up to k picks [P] int64 and their squared distances [P] float64, the same on all ranks.

        first : a given start row, appended by the caller, with its squared distance.
        stop : end before a pick whose weighted distance is not above it.
        """
        rows = [torch.tensor([first[0]])] if first is not None else []
        squared = [torch.tensor([first[1]], dtype=torch.float64)] if first is not None else []
        made, idle = len(rows), 0
        if rows and picked is not None:
            picked(rows[0], squared[0])
        while made < self.k:
            self.ranks.where = f"{made} of {self.k} picks were made"
            if idle and idle % PATIENCE == 0:
                self._settle_all()
            found, value, ended = self._pass(self.k - made, stop)
            self.passes += 1
            rows.append(found)
            squared.append(value)
            made += found.shape[0]
            if picked is not None and found.shape[0]:
                picked(found, value)
            idle = 0 if found.shape[0] else idle + 1
            if progress is not None:
                progress(made, self.k)
            if ended:
                break
            if idle >= _MOST_IDLE:
                raise RuntimeError(
                    f"{self.ranks.name}: {idle} passes in a row made no pick, {made} of {self.k} are made"
                )
        if self.passes == 0 and progress is not None:
            progress(made, self.k)
        empty = torch.empty(0, dtype=torch.int64)
        return torch.cat([empty, *rows]), torch.cat([empty.double(), *squared])

    def _pass(self, quota: int, stop: float | None) -> tuple[Tensor, Tensor, bool]:
        numbers, known, outside = self._candidates()
        vectors = self.ranks.gather(*self._own_vectors(numbers))
        weight = None if self.shard.weight is None else known[:, 1].contiguous()
        places, found = self._resolve(vectors, known[:, 0].contiguous(), weight, outside, quota, self.tuning.block)
        self._stalled = not places
        at, squared = torch.tensor(places, dtype=torch.int64), torch.tensor(found, dtype=torch.float64)
        end = None if stop is None else Stop(stop, weight).place(at, squared)
        at, squared = at[:end], squared[:end]
        self.append(numbers[at], vectors[at])
        return numbers[at], squared, end is not None

    def _own_vectors(self, numbers: Tensor) -> tuple[Tensor, list[int]]:
        """This rank's rows of those, and how many each rank has of them: numbers [T] ascending."""
        features, local = self.shard.features, self._mine(numbers)
        own = features.index_select(0, local[local >= 0].to(features.device))
        return own, _held(numbers, self.shard.counts)

    def _candidates(self) -> tuple[Tensor, Tensor, Rank | None]:
        """Numbers [T] ascending; squared distance and weight [T, 2] of each; the best rank that any other row has."""
        leaves, most = self.shard.leaves, 2 * self.batch
        if not self.tuning.lazy:
            self._refresh_all()
        while True:
            edge = self._edge(int(self.batch * (self._ratio if self.tuning.lazy else 1.0)))
            if edge == math.inf:  # nothing is known of most rows
                self._refresh_all()
                edge = self._edge(self.batch)
            told, rests, inside, distances = self._exchange(
                None if leaves is None else leaves.reach_settled(edge, most), most
            )
            self.distances += distances
            if edge == 0.0 or inside > 0:
                break
            self._ratio *= 4
        self._ratio = min(max(1.0, 0.5 * self._ratio * (1 + self.batch / max(1, inside))), _MOST_RATIO)
        numbers = told[:, 1].long()
        if numbers.shape[0] > most:
            chosen, rest = take_top(told[:, 0].contiguous(), numbers, most)
            numbers, told = numbers[chosen], told[chosen]
            rests += [] if rest is None else [rest]
        # Many equal bounds: see stepwise.Stepwise.
        if rests and self._stalled and self._settle_all():
            self._stalled = False
            return self._candidates()
        # Candidates are settled here, so that those left out may rank behind the edge, and rows below it before them.
        rests += [Rank(edge, -self.shard.rows)] if edge > 0 else []
        return numbers, told[:, 2:], _behind(max(rests, default=None), numbers)

    def _exchange(self, found: Settled | None, most: int) -> tuple[Tensor, list[Rank], int, int]:
        """What all ranks have found.

        Of each candidate [C, 4]: key, number, squared distance, weight. Of each rank that left some out the best of
        these. How many reach the edge, and the distances computed.
        """
        # As many as there are mostly, behind a line about the rank: a second exchange is for the rest.
        room = -(-3 * most // (2 * self.ranks.size))
        mine = torch.zeros(room, 4, dtype=torch.float64)
        about, more = torch.zeros(2, 4, dtype=torch.float64), mine[:0]
        about[1, 0] = -1.0
        if found is not None:
            count = found.rows.shape[0]
            weight = torch.ones(count, dtype=torch.float64)
            if self.shard.weight is not None:
                weight = self.shard.weight[found.rows.to(self.shard.weight.device)].cpu()
            key = torch.where(weight > 0, weight * found.squared, 0.0)
            # Row numbers are whole in float64 up to 2^53.
            lines = torch.stack([key, (found.rows + self.offset).double(), found.squared, weight], 1)
            mine[:count], more = lines[:room], lines[room:]
            about[0, 0], about[0, 1], about[0, 2] = count, found.inside, found.distances
            if found.rest is not None:
                about[1, 0], about[1, 1] = found.rest.key, self.offset - found.rest.minus_row
        size = 2 + room
        every = self.ranks.gather(torch.cat([about, mine]), [size] * self.ranks.size).view(-1, size, 4)
        held, inside, distances = (every[:, 0, column].long() for column in range(3))
        rests = [Rank(key, -int(number)) for key, number in every[:, 1, :2].tolist() if key >= 0]
        told = [lines[2 : 2 + min(int(count), room)] for lines, count in zip(every, held, strict=True)]
        if int(held.max()) > room:
            left = (held - room).clamp_min(0).tolist()
            rest = self.ranks.gather(more, left).split(left)
            told = [torch.cat(parts) for parts in zip(told, rest, strict=True)]
        return torch.cat(told), rests, int(inside.sum()), int(distances.sum())

    def _edge(self, wanted: int) -> float:
        leaves = self.shard.leaves
        return self._shared.find(None if leaves is None else leaves.key(), wanted)

    def _refresh_all(self) -> None:
        leaves = self.shard.leaves
        computed = torch.tensor([0 if leaves is None else leaves.refresh(None)])
        self.distances += int(self.ranks.sum(computed)[0])

    def _settle_all(self) -> bool:
        leaves = self.shard.leaves
        return bool(self.ranks.sum(torch.tensor([0 if leaves is None else leaves.settle_all()]))[0])


def rows_of(ranks: Ranks, features: Tensor, counts: list[int], rows: Tensor) -> Tensor:
    """The rows of these global numbers [S] int64, on every rank: [S, D] on the CPU."""
    local = rows - sum(counts[: ranks.rank])
    own = local[(local >= 0) & (local < features.shape[0])].to(features.device)
    found = ranks.gather(features.index_select(0, own), _held(rows, counts))
    # Found in the order of ranks, and within a rank in the order asked for.
    owner = torch.searchsorted(torch.tensor(counts).cumsum(0), rows, right=True)
    order = torch.empty_like(rows)
    order[owner.argsort(stable=True)] = torch.arange(rows.shape[0])
    return found[order]


def _held(numbers: Tensor, counts: list[int]) -> list[int]:
    """How many of these row numbers each rank has."""
    ends = torch.tensor(counts).cumsum(0)
    return torch.bincount(torch.searchsorted(ends, numbers, right=True), minlength=len(counts)).tolist()


def _behind(outside: Rank | None, numbers: Tensor) -> Rank | None:
    """A rank of row numbers as one of places among `numbers` [T] ascending: behind it is what is behind it there."""
    if outside is None:
        return None
    place = int(torch.searchsorted(numbers, -outside.minus_row))
    return Rank(outside.key, -place)


def block_job(name: str, rows: Tensor, squared: Tensor, weight: Tensor | None, block: int) -> KCenterJob:
    """Greedy over candidates alone: squared [T] are their distances to all picks so far."""
    tuning = Tuning(block=block, prune="none")
    return KCenterJob(name, rows, squared, weight, 0, rows.shape[0], tuning, Budget())
