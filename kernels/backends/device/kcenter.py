"""k-center greedy on a device: a pass is 13 to 20 launches and one copy of a few numbers to the host.

The driver is here, once; a backend gives the kernels by overriding the hooks of DeviceKCenter.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ...ranking import Picks
from ..base import KCenterJob
from .frame import DeviceFrame
from .launch import on_device, processors
from .layout import (
    ACCEPTED,
    AGE_BINS,
    COARSE_LEVELS,
    CONTROL,
    COUNT,
    COUNTERS,
    DISTANCES,
    EDGE,
    EDGE_ROW,
    END,
    FOUND,
    LEVELS,
    WANTED,
)
from .precision import Arithmetic

_log = logging.getLogger("patchcore_fast.kernels")
BLOCK_SIZES = (16, 1024)
SCANNED = 1024  # rows that the selecting kernels read in a step
_ALIGNED = 16  # columns: what loads of 16 bytes and Triton's specialisation ask for
_EXACT_PASSES = 16  # with an exact cut after one that let in too many
_ROOM, _MOST_ROOM = 8, 4096  # candidates there is room for: blocks; what one program can hold in registers
_MOST_WORK = 1 << 40  # multiply-adds of a launch: a second or two on the smallest cards
_MOST_ROWS = (1 << 31) - (1 << 16)  # row numbers are int32, and so are those just past the end
_NOBODY = (1 << 63) - 1  # an edge that no row reaches
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def _aligned(dim: int) -> int:
    return -(-dim // _ALIGNED) * _ALIGNED


def _room(block: int) -> int:
    return min(_ROOM * block, _MOST_ROOM)


class DeviceKCenter(ABC):
    """See base.KCenterLeaves for the contract.

    Per row it holds 32 bytes (8 more with starting distances, 8 with weights); then the picks in the frame, and
    12 P^2 bytes for a block of P candidates. All is allocated once: a pass allocates nothing.

    A backend overrides `_prepare`, `_pack`, `_enqueue` and `_refresh_all`, and `_scratch` where its kernels hand other
    things to each other.
    """

    called: ClassVar[str]  # "the ... backend", for error messages
    # What `_prepare` sets.
    arithmetic: Arithmetic
    frame: DeviceFrame
    parts: int  # programs of the update that may share a tile
    tile_rows: int  # of the update
    part: Tensor  # what shared tiles have found so far: nearest and second nearest distance, and the nearest pick
    part_near: Tensor
    ages: Tensor  # rows to refresh, by program and age

    def __init__(self, job: KCenterJob) -> None:
        x = self.features = job.features
        rows = x.shape[0]
        if rows > _MOST_ROWS:
            raise ValueError(f"{job.name}: {self.called} takes at most {_MOST_ROWS} rows, got {rows}")
        self.job = job
        with on_device(x.device):
            self._prepare()
            frame = self.frame
            facts = [frame.params[1] == 0, frame.squared_scale == 1, frame.centre.any(), job.initial.isfinite().any()]
            exact, unscaled, centred, self.initial = torch.stack(facts).tolist()
        self.tracked, self.weighted = not exact, job.weight is not None
        self.plain = unscaled and not centred and x.dtype != torch.float64
        self.distances = 0
        self._given = 0  # picks appended
        self._refreshed = False  # whether rows have met the picks given
        self._exact_cuts = 0  # passes to come whose cut must be exact: one let in more than there was room for
        self._graph: torch.cuda.CUDAGraph | None = None
        self._passes = 0
        least, most = BLOCK_SIZES
        self._allocate(min(max(1 << (job.tuning.block - 1).bit_length(), least), most))

    @abstractmethod
    def _prepare(self) -> None:
        """Set what is declared above. The device is current."""

    @abstractmethod
    def _pack(self, norm: Tensor, out: Tensor | None = None, rows: Tensor | None = None, first: int = 0) -> None:
        """Write squared norms, and with `out` rows in the frame, of all features or of some. The device is current.

        norm [*] float32, out [*, P] float32 contiguous, P >= D (columns from D on become zero), rows [R] int64; the
        first goes to place `first`.
        """

    @abstractmethod
    def _enqueue(self, levels: int) -> None:
        """A pass whose cut is decided by so many of layout.LEVELS. The device is current; nothing waits."""

    @abstractmethod
    def _refresh_all(self) -> None:
        """Compare all rows with the picks given; nothing becomes a candidate. The device is current."""

    def _scratch(self) -> Shapes:
        """What the kernels of a pass hand to each other, by the name that it is kept under."""
        rows, shared = self.features.shape[0], (self.parts, self.tile_rows)
        return {
            "part": (torch.float32, (2, *shared)),
            "part_near": (torch.int32, shared),
            "ages": (torch.int32, (-(-rows // self._span()), AGE_BINS)),
        }

    def _span(self) -> int:
        """Rows that one program of the selecting kernels takes."""
        steps = -(-self.features.shape[0] // SCANNED)
        return SCANNED * -(-steps // (4 * processors(self.features.device)))

    def _allocate(self, block: int) -> None:
        """All memory, or, where the device has less, all with a smaller block: once, and then the error stands."""
        limit, least = self.job.budget.memory_limit, BLOCK_SIZES[0]
        while limit is not None and block > least and self.bytes(block) > limit:
            block //= 2
        if limit is not None and self.bytes(block) > limit:
            raise ValueError(
                f"{self.job.name}: {self.features.shape[0]} rows and {self.job.k} picks need {self.bytes(block)} bytes "
                f"beyond the features, memory_limit is {limit}"
            )
        before = set(vars(self))
        try:
            self._buffers(block)
        except torch.OutOfMemoryError:
            for name in set(vars(self)) - before:  # what was allocated makes room for the second try
                delattr(self, name)
            smaller = max(least, block // 4)
            _log.debug("%s: out of memory with blocks of %d candidates, now %d", self.job.name, block, smaller)
            self._buffers(smaller)

    def bytes(self, block: int) -> int:
        """Device memory held beyond the features, their starting distances and the weights."""
        rows, dim = self.features.shape
        picks = (self.job.given + self.job.k) * (4 * _aligned(dim) + 12)
        candidates = 12 * block * block + 36 * block + 16 * _room(block)
        scratch = sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in self._scratch().values())
        return 32 * rows + picks + candidates + scratch + 8 * CONTROL + 4 * COUNTERS

    def _buffers(self, block: int) -> None:
        job, (rows, dim), device = self.job, self.features.shape, self.features.device

        def empty(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        capacity, room = job.given + job.k, _room(block)
        self.block, self.room = block, room
        self.target = min(job.tuning.batch or 2 * block, room // 2)
        self.control = torch.zeros(CONTROL + 2 * block, dtype=torch.int64, device=device)
        self.counters = torch.zeros(COUNTERS, dtype=torch.int32, device=device)
        self.block_row, self.block_exact = empty(torch.int32, block), empty(torch.float64, block)
        self.block_weight = empty(torch.float64, block)
        self.squared, self.pairs = empty(torch.float64, block, block), empty(torch.int32, block * block)
        self.candidates, self.doubt = empty(torch.int32, room), empty(torch.int32, room)
        self.settled = empty(torch.float64, room)
        # Rows of picks begin where loads of 16 bytes can.
        self.picks = empty(torch.float32, capacity, _aligned(dim))
        self.pick_norm = empty(torch.float32, capacity)
        self.pick_row = empty(torch.int64, capacity)
        self.norm, self.stale = empty(torch.float32, rows), empty(torch.int32, rows)
        self.span = self._span()
        for name, (dtype, shape) in self._scratch().items():
            setattr(self, name, empty(dtype, *shape))
        self.seen = torch.zeros(rows, dtype=torch.int32, device=device)
        self.value = torch.full((rows,), torch.inf, dtype=torch.float32, device=device)
        self.near = torch.full((rows if self.tracked else 1,), -1, dtype=torch.int32, device=device)
        self.second = torch.full((rows if self.tracked else 1,), torch.inf, dtype=torch.float32, device=device)
        self.key = job.initial.clone()
        if job.weight is not None:
            self.key = torch.where(job.weight > 0, self.key.mul_(job.weight), 0.0)
        self.weight = self.key if job.weight is None else job.weight
        with on_device(device):
            self._pack(self.norm)
        self.control[END] = capacity
        self.control[WANTED] = min(2 * self.target, rows)

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `advance`."""
        if rows.shape[0] == 0:
            return
        count = int(self.control[COUNT])
        self.pick_row[count : count + rows.shape[0]] = rows
        with on_device(self.features.device):
            self._pack(self.pick_norm, self.picks, rows, first=count)
        self.key[rows] = -1.0
        self._given = count + rows.shape[0]
        self.control[COUNT] = self._given

    def advance(self, quota: int) -> Picks:
        """One pass. The host waits once, for what was picked."""
        with on_device(self.features.device):
            if not self._refreshed:
                self.control[EDGE] = _NOBODY
                self.control[EDGE_ROW] = 0
                self._refresh_given()
                self._refreshed = True
            self._pass()
            report = self.control.cpu()
        self._passes += 1
        self._exact_cuts = _EXACT_PASSES if int(report[FOUND]) > self.room else max(0, self._exact_cuts - 1)
        self.distances = int(report[DISTANCES])
        rows = report[CONTROL : CONTROL + int(report[ACCEPTED])]
        squared = report[CONTROL + self.block :][: rows.shape[0]].view(torch.float64)
        return Picks(rows.tolist(), squared.tolist())

    def _refresh_given(self) -> None:
        """All rows meet the picks given, in as many launches as cards need that end a kernel after a few seconds."""
        rows, dim = self.features.shape
        step = max(1, _MOST_WORK // (rows * dim))
        for count in (*range(step, self._given, step), self._given):
            self.control[COUNT] = count
            self._refresh_all()

    def _pass(self) -> None:
        if self._exact_cuts:
            self.control[WANTED] = self.room // 2
            self._enqueue(len(LEVELS))
            return
        # The first pass compiles or loads what a graph cannot be recorded with.
        if not self.job.tuning.graph or self.features.device.type != "cuda" or self._passes == 0:
            self._enqueue(COARSE_LEVELS)
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(self.features.device)):
                self._enqueue(COARSE_LEVELS)
            self._graph = graph
        self._graph.replay()
