"""The native CPU engine (csrc/cpu): whole steps of the driver and whole searches in C++, for rows of any float type.

Bounds are canonical float64 distances throughout: reduced precision only decides which pairs are worth one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import LARGEST, raise_unusable
from ..ranking import Picks, Rank
from ..surroundings import engine_threads
from ..together import Together
from ..tuning import Budget
from .base import Backend, KCenterJob, KCenterLeaves, Settled, ShardLeaves
from .native_library import native, native_refusal
from .stepwise import Reached, Stepwise

_SAMPLE, _SAMPLE_ELEMENTS = 256, 1 << 18  # rows that place the centre
_SAMPLE_DIRECTIONS = 1024  # rows that the leading directions come from
_DIRECTIONS, _SPREAD = (31, 63, 127, 255), 0.95  # as few as hold that much of the spread
_WIDEST_PARTIAL = 4096  # columns up to which finding them costs little
_TRACE = 2.0**-20  # of the random start, beside directions of up to 1
_PARTIAL_PICKS = 512  # picks from which comparing along them can pay
_LONGEST_INTEGERS = 31999.0  # just below the norm that 16-bit products stand (csrc/cpu/tile_vnni.cpp)
_COARSE = 2.0**-8  # mean relative error from which rounding to integers leaves too much to settle
_NORM2 = (2.0**-40, 2.0**50)  # largest squared norms that float32 squares and sums without trouble


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


def addressable(x: Tensor) -> Tensor:
    """x, or a copy where its memory cannot be read in place: off its type's alignment, or not there (a zero tensor)."""
    address = x.data_ptr()
    return x if address and address % x.element_size() == 0 else x.clone().contiguous()


def describe(x: Tensor) -> tuple[int, str, int, int, int, int]:
    """Address, type, rows, columns and strides in elements, as the native module takes a matrix."""
    return x.data_ptr(), str(x.dtype).removeprefix("torch."), *x.shape, *x.stride()


def look_over(name: str, threads: int, together: Together | None = None, **matrices: Tensor) -> list[Any]:
    """Look over the rows in a common frame, refuse unusable ones: one native Look a matrix.

    The frame is centred on the median of some rows of the first matrix: packing costs the same with and without a
    centre, and shorter rows make for a smaller error bound. Far-away rows do not move a median, and that of integers
    is an integer.

    Parameters
    ----------
    name : public function, for the error message.
    together : the ranks whose rows are compared with each other: one frame for all.
    matrices : [N, D] each, any float dtype, by the name that the message should use.
    """
    x = next(iter(matrices.values()))
    centre = _centre_of(x) if together is None else together.gather(_centre_of(x)[: x.shape[0]])
    centre = centre[0].contiguous()
    if not bool(centre.isfinite().all()):
        centre.zero_()

    def most(value: Callable[[], float]) -> float:
        return value() if together is None else together.most(together.agree(value))

    def looks(isa: str, scale: float) -> list[Any]:
        return [native().Look(describe(x), isa, centre.data_ptr(), scale, threads) for x in matrices.values()]

    isa = native().isa()
    integers = isa == "avx512"  # VNNI
    plain = looks("avx512f" if integers else isa, 1.0)
    largest = most(lambda: max(look.largest_norm2 for look in plain))
    if largest == 0 or _NORM2[0] <= largest <= _NORM2[1]:
        if not integers or largest == 0:
            return plain
        longest = _LONGEST_INTEGERS / math.sqrt(largest)
        rounded = looks(isa, 2.0 ** math.floor(math.log2(longest)))
        return rounded if max(look.coarse for look in rounded) <= _COARSE else plain
    # The largest value goes to 2^40, far from overflow, so that others keep room below it; the cap keeps the bound
    # above what the float64 squares of subnormal differences lose.
    largest = most(lambda: max(_largest(name, what, x) for what, x in matrices.items()))
    return looks("avx512f" if integers else isa, 2.0 ** min(40 - math.frexp(largest)[1], 450))


def _centre_of(x: Tensor) -> Tensor:  # [N, D] -> [1, D] float64, values of float32
    """The median of some rows."""
    if x.shape[0] == 0:
        return torch.zeros(1, x.shape[1], dtype=torch.float64, device="cpu")
    step = -(-x.shape[0] // max(1, min(_SAMPLE, _SAMPLE_ELEMENTS // x.shape[1])))
    return x[::step].double().median(0, keepdim=True).values.float().double()


def _largest(name: str, what: str, x: Tensor) -> float:
    """The largest |x|.

    Raises
    ------
    ValueError : rows that are not finite, or too large.
    """
    value = float(x.abs().max()) if x.shape[0] else 0.0  # a NaN stays
    if not value <= LARGEST:
        raise_unusable(name, what, x)
    return value


def _knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    # Nothing of the budget applies: host memory, a few tiles a thread.
    query, bank = addressable(query), addressable(bank)
    threads = engine_threads()
    of_bank, of_query = look_over("knn", threads, bank=bank, query=query)
    squared = torch.empty(query.shape[0], k, dtype=torch.float64, device="cpu")
    rows = torch.empty(query.shape[0], k, dtype=torch.int64, device="cpu")
    native().knn(describe(query), describe(bank), of_query, of_bank, k, threads, squared.data_ptr(), rows.data_ptr())
    return squared, rows


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


NATIVE = Backend("native", _refuse, _k_center, _shard, _knn, _about)
