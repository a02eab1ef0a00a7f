"""The native CPU engine (csrc/cpu): whole steps of the driver and whole searches in C++, for rows of any float type.

Bounds are canonical float64 distances throughout: reduced precision only decides which pairs are worth one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ..ranking import Picks, Rank
from ..surroundings import engine_threads
from ..together import Together
from ..tuning import Budget
from .base import Backend, KCenterJob, KCenterLeaves, Settled, ShardLeaves
from .native_library import native, native_refusal
from .native_prepared import NativePrepared
from .native_rows import addressable, describe, look_over, search
from .stepwise import Reached, Stepwise

_SAMPLE_DIRECTIONS = 1024  # rows that the leading directions come from
_DIRECTIONS, _SPREAD = (31, 63, 127, 255), 0.95  # as few as hold that much of the spread
_WIDEST_PARTIAL = 4096  # columns up to which finding them costs little
_TRACE = 2.0**-20  # of the random start, beside directions of up to 1
_PARTIAL_PICKS = 512  # picks from which comparing along them can pay


class NativeKCenter:
    """Leaves of `k_center_greedy` in C++. See stepwise.KCenterSteps for the contract."""

    def __init__(self, job: KCenterJob, look: Any = None, guests: Tensor | None = None) -> None:
        """`look`: where the rows have been looked over; `guests` [capacity, D]: room for picks of other rows."""
        # The engine works in the memory of these tensors: they must outlive it.
        features = addressable(job.features)
        self.features, self._squared, self._weight = features, job.initial, job.weight
        threads = engine_threads()
        (look,) = look_over(job.name, threads, features=features) if look is None else (look,)
        address = 0 if job.weight is None else job.weight.data_ptr()
        prune, capacity = job.tuning.prune, job.given + job.k
        partial = prune == "partial" or (prune == "auto" and capacity >= _PARTIAL_PICKS)
        directions = leading_directions(features) if partial and look.packs_float32 else None
        rows = (0, 0) if directions is None else (directions.data_ptr(), directions.shape[0])
        self._guests = guests
        self._engine = native().KCenter(
            describe(features), look, job.initial.data_ptr(), address, capacity, prune, *rows, threads,
            0 if guests is None else guests.data_ptr(),
        )  # fmt: skip

    @property
    def count(self) -> int:
        """Picks appended."""
        return self._engine.count

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `resolve`."""
        self._engine.append(rows.data_ptr(), rows.shape[0])

    def edge(self, wanted: int) -> float:
        """The wanted-th largest key; 0.0 where there are not that many rows."""
        return self._engine.edge(wanted)

    def refresh(self, rows: Tensor | None) -> int:
        """Compare rows with the picks they have not seen; returns the distances computed."""
        if rows is None:
            return self._engine.refresh(0, 0)
        return self._engine.refresh(rows.data_ptr(), rows.shape[0]) if rows.shape[0] else 0

    def reach(self, edge: float, most: int) -> Reached:
        """The rows that reach the edge once they are refreshed; the first `most` in rank."""
        rows, inside, key, row, distances = self._engine.reach(edge, most)
        rest = Rank(key, -row) if inside > most else None
        return Reached(torch.tensor(rows, dtype=torch.int64, device="cpu"), inside, rest, distances)

    def settle_all(self) -> int:
        """Nothing to do: refreshed bounds are exact."""
        return 0

    def resolve(self, rows: Tensor, outside: Rank | None, quota: int, block: int) -> Picks:
        """The next picks among `rows`, appended."""
        key, row = (0.0, 0) if outside is None else (outside.key, -outside.minus_row)
        found = self._engine.resolve(rows.data_ptr(), rows.shape[0], outside is not None, key, row, quota, block)
        return Picks(*found)


class NativeShard(NativeKCenter):
    """The native engine for one rank's rows. See base.ShardLeaves for the contract."""

    def __init__(self, job: KCenterJob, look: Any) -> None:
        self._rows = torch.empty(job.given + job.k, job.features.shape[1], dtype=job.features.dtype, device="cpu")
        super().__init__(job, look, self._rows)

    def key(self) -> Tensor:
        """[N] float64: of every row, as far as it is known; -1 once it is picked."""
        if self._weight is None:
            return self._squared
        key = torch.where(self._weight > 0, self._weight * self._squared, 0.0)
        return key.masked_fill_(self._squared < 0, -1.0)

    def append_guests(self, rows: Tensor, own: Tensor) -> None:
        """Add picks: rows [B, D], own [B] int64 their numbers here, -1 of another rank's."""
        own = own.contiguous()
        self._rows[self.count : self.count + rows.shape[0]] = rows
        self._engine.append_guests(own.data_ptr(), own.shape[0])

    def reach_settled(self, edge: float, most: int) -> Settled:
        """Bring up to date the rows not picked whose key reaches the edge: bounds are true distances here."""
        found = self.reach(edge, most)
        return Settled(found.rows, self._squared[found.rows], found.inside, found.rest, found.distances)


def _shard(job: KCenterJob, together: Together) -> ShardLeaves | None:
    job = dataclasses.replace(job, features=addressable(job.features))
    (look,) = look_over(job.name, engine_threads(), together, features=job.features)
    return together.agree(lambda: NativeShard(job, look) if job.features.shape[0] else None)


def leading_directions(x: Tensor) -> Tensor | None:
    """Orthonormal rows [R, D] float32 that span most of the spread of some rows of x; None if D is small or very large.

    Two steps of subspace iteration (Halko, Martinsson and Tropp 2011) from a fixed start. Picks do not depend on them.
    """
    most = max((c for c in _DIRECTIONS if 2 * c <= x.shape[1]), default=0)
    if most == 0 or x.shape[1] > _WIDEST_PARTIAL:
        return None
    sample = x[:: -(-x.shape[0] // _SAMPLE_DIRECTIONS)].float()
    sample = sample - sample.mean(0)
    spread = float(sample.square().sum())
    if not 0 < spread < math.inf:  # equal rows; NaN, which the look over the rows has told already; beyond float32
        return None
    start = torch.randn(most, x.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    rows = start
    for _ in range(2):
        # A trace of the start keeps the directions apart where the rows span fewer.
        rows = _orthonormal((rows @ sample.t() @ sample).div_(spread).add_(start, alpha=_TRACE))
    held = (sample @ rows.t()).square().sum(0).cumsum(0) / spread
    count = next((c for c in _DIRECTIONS if c <= most and held[c - 1] >= _SPREAD), most)
    return rows[:count].contiguous() if bool(rows.isfinite().all()) else None


def _orthonormal(rows: Tensor) -> Tensor:  # [R, D] -> [R, D] float32
    """Orthonormal rows of the same span: Cholesky's QR, twice (Yamamoto et al. 2015).

    LAPACK's QR enters thousands of parallel regions: where processors are fewer than threads, or have other work, each
    waits for a turn. This is a few products and the factor of an R x R matrix.
    """
    wide = rows.double()
    for _ in range(2):
        factor = torch.linalg.cholesky_ex(wide @ wide.t()).L
        wide = torch.linalg.solve_triangular(factor, wide, upper=False)
    return wide.float()


def _refuse(device: torch.device) -> str | None:
    if device.type != "cpu":
        return "the native engine runs on the CPU"
    return native_refusal()


def _about() -> str:
    try:
        return f"C++, {native().isa()}"
    except (RuntimeError, ValueError) as reason:  # PATCHCORE_FAST_ISA asks for what is not there: calls will say so
        return str(reason)


def _k_center(job: KCenterJob) -> KCenterLeaves:
    return Stepwise(NativeKCenter(job), job)


def _knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    return search(query, bank, k)  # nothing of the budget applies: host memory, a few tiles a thread


NATIVE = Backend("native", _refuse, _k_center, _shard, _knn, _about, prepare=NativePrepared)
