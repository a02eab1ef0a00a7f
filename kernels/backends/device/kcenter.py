"""k-center greedy on a device: a pass is 14 to 21 launches, and the host waits for several passes at a time.

The driver is here, once; a backend gives the kernels by overriding the hooks of DeviceKCenter.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ..base import PATIENCE, Found, KCenterJob
from .frame import DeviceFrame, Rows
from .launch import on_device, processors
from .layout import (
    ACCEPTED,
    AGE_BINS,
    BEST,
    BEST_ROW,
    COARSE_LEVELS,
    CONTROL,
    COUNT,
    COUNTERS,
    CROWDED,
    DISTANCES,
    EDGE,
    EDGE_ROW,
    END,
    FOUND,
    HISTOGRAM,
    INSIDE,
    LEFT,
    LEVELS,
    PASSES,
    STALE,
    WANTED,
)
from .precision import Arithmetic

_log = logging.getLogger("patchcore_fast.kernels")
BLOCK_SIZES = (16, 1024)
SCANNED = 1024  # rows that the selecting kernels read in a step
_ALIGNED = 16  # columns: what loads of 16 bytes and Triton's specialisation ask for
_ROOM, _MOST_ROOM = 8, 4096  # candidates there is room for: blocks; what one program can hold in registers
_MOST_WANTED = 64  # rows that an edge lets in at most, in candidates aimed at: trim_kernel's
_MOST_AHEAD = 8  # passes enqueued before the host waits for what they found
_SETTLED = 1 << 14  # rows whose bounds are made exact at a time: what this allocates stays below 1 MiB
_WORK_AHEAD = 1 << 38  # multiply-adds that these may come to: what a small card does in about a tenth of a second
_MOST_WORK = 1 << 40  # multiply-adds of a launch: a second or two on the smallest cards
_MOST_ROWS = (1 << 31) - (1 << 16)  # row numbers are int32, and so are those just past the end
_NOBODY = (1 << 63) - 1  # an edge that no row reaches
_NAMES = {"count": COUNT, "end": END, "wanted": WANTED, "left": LEFT, "edge": EDGE, "edge row": EDGE_ROW,
          "best": BEST, "best row": BEST_ROW, "accepted": ACCEPTED, "distances": DISTANCES, "found": FOUND,
          "crowded": CROWDED, "passes": PASSES}  # fmt: skip
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def aligned(dim: int) -> int:
    """Columns that rows of picks have."""
    return -(-dim // _ALIGNED) * _ALIGNED


def _room(block: int) -> int:
    return min(_ROOM * block, _MOST_ROOM)


class DeviceKCenter(ABC):
    """See base.KCenterLeaves for the contract.

    Per row it holds 32 bytes (8 more with starting distances, 8 with weights); then the picks in the frame, 12 P^2
    bytes for a block of P candidates, and 4 for each candidate listed. All is allocated once: a pass allocates nothing,
    and `settle_all`, which few runs need, little.

    A backend overrides `_prepare`, `_pack`, `_enqueue`, `_refresh_all`, `_refresh_listed` and `_settle_listed`, and
    `_scratch` where its kernels hand other things to each other.

    As one rank of a group (shard.py) it holds the rows of all picks besides, as they came: `guests`.
    """

    called: ClassVar[str]  # "the ... backend", for error messages
    graphs: ClassVar[bool] = False  # whether to launch a pass takes longer than to replay it
    # What `_prepare` sets.
    arithmetic: Arithmetic
    frame: DeviceFrame
    parts: int  # programs of the update that may share a tile
    tile_rows: int  # of the update
    part: Tensor  # what shared tiles have found so far: nearest and second nearest distance, and the nearest pick
    part_near: Tensor
    ages: Tensor  # rows to refresh, by program and age

    def __init__(self, job: KCenterJob, others: Rows | None = None) -> None:
        """`others`: rows of other ranks that will be picks here; None where all picks are rows of the features."""
        x = self.features = job.features
        self.others = others
        rows = x.shape[0]
        if rows > _MOST_ROWS:
            raise ValueError(f"{job.name}: {self.called} takes at most {_MOST_ROWS} rows, got {rows}")
        self.job = job
        with on_device(x.device):
            self._prepare()
        self.tracked, self.weighted, self.initial = not self.frame.exact, job.weight is not None, job.started
        self.plain = self.frame.unchanged and x.dtype != torch.float64
        self.distances = 0
        self._count = self._given = 0  # picks; of these appended
        self._refreshed = False  # whether rows have met the picks given
        self._exact = False  # whether the next cuts must be exact
        asked = self.graphs if job.tuning.graph is None else job.tuning.graph
        self._replays = asked and x.device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False  # whether a pass was enqueued
        self._passes = self._work = 0  # passes so far, and multiply-adds of one of the last
        self._ahead = 1
        self._idle = 0  # passes since a pick
        self._told: list[int] = []  # `control`, as it came
        self._allocate(self._asked())

    @abstractmethod
    def _prepare(self) -> None:
        """Set what is declared above. The device is current."""

    @abstractmethod
    def _pack(
        self, x: Tensor, norm: Tensor, out: Tensor | None = None, rows: Tensor | None = None, first: int = 0
    ) -> None:
        """Write squared norms, and with `out` rows in the frame, of all rows of x or of some. The device is current.

        x [*, D] of the features' type, norm [*] float32, out [*, P] contiguous, float32 or `_kept`, P >= D (columns
        from D on become zero), rows [R] int64; the first goes to place `first`.
        """

    @abstractmethod
    def _enqueue(self, levels: int) -> None:
        """A pass whose cut is decided by so many of layout.LEVELS. The device is current; nothing waits."""

    @abstractmethod
    def _refresh_all(self) -> None:
        """Compare all rows with the picks given; nothing becomes a candidate. The device is current."""

    @abstractmethod
    def _refresh_listed(self) -> None:
        """Compare the first counters[STALE] rows in `stale`, oldest first, with the picks that they have not seen."""

    @abstractmethod
    def _settle_listed(self) -> None:
        """Write true squared distances of the first counters[INSIDE] rows in `candidates`, all fresh, to `settled`."""

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

    def _asked(self) -> int:
        """The block that the tuning asks for."""
        least, most = BLOCK_SIZES
        return min(max(1 << (self.job.tuning.block - 1).bit_length(), least), most)

    def _target(self, block: int) -> int:
        """Candidates aimed at."""
        return min(self.job.tuning.batch or 2 * block, _room(block) // 2)

    def _listed(self, block: int) -> int:
        """Candidates that the list holds: those a coarse edge lets in, unless rows crowd. Few sizes: a constant of
        Triton's kernels."""
        most = min(self.features.shape[0], 2 * _MOST_WANTED * self._target(block))
        return max(_room(block), 1 << (most - 1).bit_length())

    def _kept(self) -> torch.dtype:
        """Of picks: halves that are multiplied as they are stay what they are."""
        return self.features.dtype if self.arithmetic.mode == "half" else torch.float32

    def bytes(self, block: int) -> int:
        """Device memory held beyond the features, their starting distances and the weights."""
        rows, dim = self.features.shape
        guests = 0 if self.others is None else self.features.element_size() * dim
        picks = (self.job.given + self.job.k) * (self._kept().itemsize * aligned(dim) + 20 + guests)
        candidates = 12 * block * block + 20 * block + 12 * _room(block) + 4 * self._listed(block)
        scratch = sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in self._scratch().values())
        return 32 * rows + picks + candidates + scratch + 8 * CONTROL + 4 * COUNTERS

    def _buffers(self, block: int) -> None:
        job, (rows, dim), device = self.job, self.features.shape, self.features.device

        def empty(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        capacity, room = job.given + job.k, _room(block)
        self.block, self.room = block, room
        self.target, self.listed = self._target(block), self._listed(block)
        first = {END: capacity, WANTED: min(2 * self.target, rows), EDGE: _NOBODY}
        # One copy to the device, whatever is set.
        self.control = torch.tensor([first.get(at, 0) for at in range(CONTROL)], dtype=torch.int64, device=device)
        self.counters = torch.zeros(COUNTERS, dtype=torch.int32, device=device)
        self.block_row, self.block_exact = empty(torch.int32, block), empty(torch.float64, block)
        self.block_weight = empty(torch.float64, block)
        self.squared, self.pairs = empty(torch.float64, block, block), empty(torch.int32, block * block)
        self.candidates, self.doubt = empty(torch.int32, self.listed), empty(torch.int32, room)
        self.settled = empty(torch.float64, room)
        # Rows of picks begin where loads of 16 bytes can.
        self.picks = empty(self._kept(), capacity, aligned(dim))
        # Where the canonical distances find them: row pick_row[i] is pick i.
        self.picked_from = self.features if self.others is None else empty(self.features.dtype, capacity, dim)
        self.pick_norm = empty(torch.float32, capacity)
        self.pick_row, self.pick_squared = empty(torch.int64, capacity), empty(torch.float64, capacity)
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
            self._pack(self.features, self.norm)

    @property
    def count(self) -> int:
        """Picks so far."""
        return self._count

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `advance`."""
        if rows.shape[0] == 0:
            return
        end = self._count + rows.shape[0]
        self.pick_row[self._count : end] = rows
        with on_device(self.features.device):
            self._pack(self.picked_from, self.pick_norm, self.picks, rows, first=self._count)
        if self.others is None:
            self.key[rows] = -1.0
        self._count = self._given = end
        self._set_count(end)

    def append_guests(self, rows: Tensor) -> None:  # [B, D]
        """Add picks of any rank. Which rows here they are, if they are, the caller marks in `key`."""
        part = slice(self._count, self._count + rows.shape[0])
        self.picked_from[part] = rows
        self.append(torch.arange(part.start, part.stop, device=self.features.device))

    def refresh(self, rows: Tensor | None) -> None:
        """Compare rows [R] int64 (None: all not picked) with picks they have not seen; cards let the launches end."""
        seen = self.seen if rows is None else self.seen[rows]
        behind = seen < self._count
        if rows is None:
            behind &= self.key >= 0
        stale = behind.nonzero().squeeze(1)
        seen, order = seen[stale].sort(stable=True)  # rows of like age share a tile
        stale = stale[order] if rows is None else rows[stale[order]]
        step = max(1, _MOST_WORK // (max(self._count, 1) * self.features.shape[1]))
        with on_device(self.features.device):
            for part in stale.split(step) if stale.shape[0] else ():
                self.stale[: part.shape[0]] = part
                self._list(STALE, part.shape[0])
                self._refresh_listed()
        self.distances += int((self._count - seen.long()).sum())

    def settle(self, rows: Tensor) -> Tensor:
        """True squared distances [R] float64 of fresh rows [R] int64 to the nearest pick; their keys become exact."""
        found = torch.empty(rows.shape[0], dtype=torch.float64, device=rows.device)
        with on_device(self.features.device):
            for place, part in zip(found.split(self.room), rows.split(self.room), strict=True):
                self.candidates[: part.shape[0]] = part
                self._list(INSIDE, part.shape[0])
                self._settle_listed()
                place.copy_(self.settled[: part.shape[0]])
        weight = None if self.job.weight is None else self.weight[rows]
        self.key[rows] = found if weight is None else torch.where(weight > 0, weight * found, 0.0)
        return found

    def settle_all(self) -> int:
        """Make every bound exact; returns how many were not."""
        loose = 0
        for first in range(0, self.features.shape[0], _SETTLED):
            key = self.key[first : first + _SETTLED]
            rows = first + (key >= 0).nonzero().squeeze(1)
            self.refresh(rows)
            before = key.clone()
            self.settle(rows)
            loose += int((key != before).sum())
        return loose

    def _list(self, counter: int, count: int) -> None:
        self.counters[:HISTOGRAM].zero_()
        self.counters[counter : counter + 1].fill_(count)

    def advance(self, quota: int) -> Found:
        """Some passes, one behind the other on the device. The host waits once, for what they left in `control`."""
        with on_device(self.features.device):
            if not self._refreshed:  # nobody reaches the first edge
                self._refresh_given()
                self._refreshed = True
            if self._idle >= PATIENCE:  # see stepwise.Stepwise
                self.settle_all()
                self._idle = 0
            self._ahead = self._passes_ahead(quota)
            for _ in range(self._ahead):
                self._pass()
            self._told = self.control.cpu().tolist()
        first, passes, distances = self._count, self._passes, self.distances
        self._count, self._passes, self.distances = (self._told[at] for at in (COUNT, PASSES, DISTANCES))
        passes = self._passes - passes
        self._idle = self._idle + passes if self._count == first else 0
        self._work = (self.distances - distances) * self.features.shape[1] // passes
        # More than the list of candidates holds were let in, or many more than were wanted: rows of nearly one key.
        self._exact = self._told[CROWDED] != 0 or self._told[FOUND] > self.listed
        return Found(self.pick_row[first : self._count], self.pick_squared[first : self._count], passes)

    def state(self) -> str:
        """The numbers of the control block."""
        return "control " + ", ".join(f"{name} {self._told[at]}" for name, at in _NAMES.items())

    def _passes_ahead(self, quota: int) -> int:
        """Passes to enqueue now: more from time to time, as many as may be needed, and not too much work."""
        picks, work = (self._told[ACCEPTED], self._work) if self._passes else (1, 0)
        needed = -(-quota // max(picks, 1))
        return max(1, min(2 * self._ahead, _MOST_AHEAD, needed, _WORK_AHEAD // max(work, 1)))

    def _refresh_given(self) -> None:
        """All rows meet the picks given, in as many launches as cards need that end a kernel after a few seconds."""
        rows, dim = self.features.shape
        step = max(1, _MOST_WORK // (rows * dim))
        for count in (*range(step, self._given, step), self._given):
            self._set_count(count)
            self._refresh_all()

    def _set_count(self, count: int) -> None:
        self.control[COUNT : COUNT + 1].fill_(count)  # a launch; setting an element would wait for a copy

    def _pass(self) -> None:
        if self._exact:
            self._enqueue(len(LEVELS))
        elif not self._replays or not self._warm:
            self._enqueue(COARSE_LEVELS)  # the first compiles or loads what a graph cannot be recorded with
            self._warm = True
        else:
            try:
                self._graph = self._graph or self._record()
            except RuntimeError as error:
                _log.warning("%s: a pass cannot be recorded as a CUDA graph, and is launched: %s", self.job.name, error)
                self._replays = False
                self._enqueue(COARSE_LEVELS)
                return
            self._graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        """A pass as a graph.

        torch.cuda.graph would wait for the device and empty the allocator's cache first; nothing is allocated here.
        Other threads may go on using CUDA meanwhile.
        """
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        aside = torch.cuda.Stream(self.features.device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._enqueue(COARSE_LEVELS)
            finally:
                graph.capture_end()
        current.wait_stream(aside)
        return graph
