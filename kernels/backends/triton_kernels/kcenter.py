"""k-center greedy on the device: a pass is a dozen launches and one copy of a few numbers to the host."""

from __future__ import annotations

import logging
import math

import torch
import triton
from torch import Tensor

from ...ranking import Picks
from ..base import KCenterJob
from .block import append_kernel, near_kernel, pairs_kernel, resolve_kernel
from .frame import choose_frame, pack
from .launch import capability, on_device, processors
from .layout import (
    ACCEPTED,
    AGE_BINS,
    BINS,
    COARSE_LEVELS,
    CONTROL,
    COUNT,
    DISTANCES,
    EDGE,
    EDGE_ROW,
    END,
    FOUND,
    HISTOGRAM,
    KEY_LEVELS,
    LEVELS,
    WANTED,
)
from .precision import choose_arithmetic
from .primitives import canonical_columns
from .select import count_kernel, edge_kernel, scatter_kernel
from .settle import scan_kernel, settle_kernel, trim_kernel
from .tiles import choose_tile
from .update import merge_kernel, update_kernel

_log = logging.getLogger("patchcore_fast.kernels")
_BLOCK = (16, 1024)
_ALIGNED = 16  # columns: what loads of 16 bytes and Triton's specialisation ask for
_EXACT_PASSES = 16  # with an exact cut after one that let in too many
_ROOM, _MOST_ROOM = 8, 4096  # candidates there is room for: blocks; what one program can hold in registers
_MOST_ROWS = (1 << 31) - (1 << 16)  # row numbers are int32, and so are those just past the end
_SCANNED = 1024  # rows that the selecting kernels read in a step
_NOBODY = (1 << 63) - 1  # an edge that no row reaches


def _aligned(dim: int) -> int:
    return -(-dim // _ALIGNED) * _ALIGNED


def _room(block: int) -> int:
    return min(_ROOM * block, _MOST_ROOM)


class TritonKCenter:
    """See base.KCenterLeaves for the contract.

    Per row it holds 32 bytes (8 more with starting distances, 8 with weights); then the picks in the frame, and
    12 P^2 bytes for a block of P candidates. All is allocated once: a pass allocates nothing.
    """

    def __init__(self, job: KCenterJob) -> None:
        x = self.features = job.features
        rows, dim = x.shape
        if rows > _MOST_ROWS:
            raise ValueError(f"{job.name}: the Triton backend takes at most {_MOST_ROWS} rows, got {rows}")
        self.job = job
        self.arithmetic = choose_arithmetic(job.budget.precision, capability(x.device), dim)
        with on_device(x.device):
            self.tile = choose_tile("update", capability(x.device), dim, self.arithmetic.mode)
            self.frame = choose_frame(job.name, self.arithmetic, True, features=x)
            frame = self.frame
            facts = [frame.params[1] == 0, frame.squared_scale == 1, frame.centre.any(), job.initial.isfinite().any()]
            exact, unscaled, centred, self.initial = torch.stack(facts).tolist()
        self.tracked, self.weighted = not exact, job.weight is not None
        self.plain = unscaled and not centred and x.dtype != torch.float64
        self.distances = 0
        self._refreshed = False  # whether rows have met the picks given
        self._exact_cuts = 0  # passes to come whose cut must be exact: one let in more than there was room for
        self._graph: torch.cuda.CUDAGraph | None = None
        self._passes = 0
        self._allocate(min(max(triton.next_power_of_2(job.tuning.block), _BLOCK[0]), _BLOCK[1]))

    def _allocate(self, block: int) -> None:
        """All memory, or, where the device has less, all with a smaller block: once, and then the error stands."""
        limit = self.job.budget.memory_limit
        while limit is not None and block > _BLOCK[0] and self.bytes(block) > limit:
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
            smaller = max(_BLOCK[0], block // 4)
            _log.debug("%s: out of memory with blocks of %d candidates, now %d", self.job.name, block, smaller)
            self._buffers(smaller)

    def bytes(self, block: int) -> int:
        """Device memory held beyond the features, their starting distances and the weights."""
        rows, dim = self.features.shape
        picks = (self.job.given + self.job.k) * (4 * _aligned(dim) + 12)
        candidates = 12 * block * block + 36 * block + 16 * _room(block)
        programs = processors(self.features.device)
        scratch = 2 * programs * 12 * self.tile.rows + 4 * programs * 4 * AGE_BINS.value
        notes = 8 * CONTROL.value + 4 * (HISTOGRAM.value + len(LEVELS) * BINS.value)
        return 32 * rows + picks + candidates + scratch + notes

    def _buffers(self, block: int) -> None:
        job, (rows, dim), device = self.job, self.features.shape, self.features.device

        def empty(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        capacity, room = job.given + job.k, _room(block)
        self.block, self.room = block, room
        self.target = min(job.tuning.batch or 2 * block, room // 2)
        self.control = torch.zeros(CONTROL.value + 2 * block, dtype=torch.int64, device=device)
        self.counters = torch.zeros(HISTOGRAM.value + len(LEVELS) * BINS.value, dtype=torch.int32, device=device)
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
        self.programs = 2 * processors(device)
        self.part = empty(torch.float32, 2, self.programs, self.tile.rows)
        self.part_near = empty(torch.int32, self.programs, self.tile.rows)
        self.span = _SCANNED * triton.cdiv(triton.cdiv(rows, _SCANNED), 4 * processors(device))
        self.ages = empty(torch.int32, triton.cdiv(rows, self.span), AGE_BINS.value)
        self.seen = torch.zeros(rows, dtype=torch.int32, device=device)
        self.value = torch.full((rows,), torch.inf, dtype=torch.float32, device=device)
        self.near = torch.full((rows if self.tracked else 1,), -1, dtype=torch.int32, device=device)
        self.second = torch.full((rows if self.tracked else 1,), torch.inf, dtype=torch.float32, device=device)
        self.key = job.initial.clone()
        if job.weight is not None:
            self.key = torch.where(job.weight > 0, self.key.mul_(job.weight), 0.0)
        self.weight = self.key if job.weight is None else job.weight
        self.columns = canonical_columns(dim, device)
        with on_device(device):
            pack(self.features, self.frame, self.norm)
        self.control[END.value] = capacity
        self.control[WANTED.value] = min(2 * self.target, rows)

    def append(self, rows: Tensor) -> None:  # [B] int64
        """Add picks made outside `advance`."""
        if rows.shape[0] == 0:
            return
        count = int(self.control[COUNT.value])
        self.pick_row[count : count + rows.shape[0]] = rows
        with on_device(self.features.device):
            pack(self.features, self.frame, self.pick_norm, self.picks, rows, first=count)
        self.key[rows] = -1.0
        self.control[COUNT.value] = count + rows.shape[0]

    def advance(self, quota: int) -> Picks:
        """One pass. The host waits once, for what was picked."""
        with on_device(self.features.device):
            if not self._refreshed:
                self._refresh_all()
                self._refreshed = True
            self._pass()
            report = self.control.cpu()
        self._passes += 1
        self._exact_cuts = _EXACT_PASSES if int(report[FOUND.value]) > self.room else max(0, self._exact_cuts - 1)
        self.distances = int(report[DISTANCES.value])
        first = CONTROL.value
        rows = report[first : first + int(report[ACCEPTED.value])]
        squared = report[first + self.block :][: rows.shape[0]].view(torch.float64)
        return Picks(rows.tolist(), squared.tolist())

    def _pass(self) -> None:
        if self._exact_cuts:
            self.control[WANTED.value] = self.room // 2
            self._enqueue(len(LEVELS))
            return
        # The first pass compiles what a graph cannot be recorded with.
        if not self.job.tuning.graph or self.features.device.type != "cuda" or self._passes == 0:
            self._enqueue(COARSE_LEVELS)
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(self.features.device)):
                self._enqueue(COARSE_LEVELS)
            self._graph = graph
        self._graph.replay()

    def _enqueue(self, levels: int) -> None:
        self.counters.zero_()
        self._select(levels)
        self._update(listed=True)
        self._settle()
        self._resolve()

    def _refresh_all(self) -> None:
        self.control[EDGE.value] = _NOBODY
        self.control[EDGE_ROW.value] = 0
        self._update(listed=False)

    def _select(self, levels: int) -> None:
        rows, eager = self.features.shape[0], not self.job.tuning.lazy
        grid = (self.ages.shape[0],)
        for level, (shift, width) in enumerate(LEVELS[:levels]):
            edge_kernel[grid](
                self.key, rows, self.control, self.counters, LEVEL=level, SHIFT=shift, WIDTH=width,
                OF_ROW=level >= KEY_LEVELS, HIGHEST=level in (0, KEY_LEVELS), B=_SCANNED, num_warps=8,
                enable_fp_fusion=False,
            )  # fmt: skip
        count_kernel[grid](
            self.key, self.seen, rows, self.span, self.control, self.counters, self.ages, self.candidates,
            ROOM=self.room, EAGER=eager, B=_SCANNED, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        scatter_kernel[grid](
            self.key, self.seen, rows, self.span, self.control, self.counters, self.ages, self.stale, EAGER=eager,
            PROGRAMS=triton.next_power_of_2(grid[0]), B=_SCANNED // 2, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip

    def _update(self, listed: bool) -> None:
        x, job, tile, (rows, dim) = self.features, self.job, self.tile, self.features.shape
        known = (self.norm, self.seen, self.value, self.near, self.second, self.key, job.initial, self.weight)
        notes = (self.frame.params, self.control, self.counters, self.candidates, self.part, self.part_near)
        facts = {"ROOM": self.room, "LISTED": listed, "TRACKED": self.tracked, "INITIAL": self.initial,
                 "WEIGHTED": self.weighted, "PARTS": self.programs, "M": tile.rows}  # fmt: skip
        wide = math.gcd(x.stride(0), dim, _ALIGNED)
        update_kernel[(self.programs,)](
            x, x.stride(0) // wide, x.stride(1), rows, dim // wide, self.picks.shape[1] // wide, self.stale,
            self.picks, self.pick_norm, *known, self.frame.centre, *notes, **facts, PLAIN=self.plain,
            MODE=self.arithmetic.mode, V=wide, N=tile.others, K=tile.depth, num_warps=tile.warps,
            num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
        merge_kernel[(max(self.programs // 2, 1),)](
            rows, self.stale, *known, *notes, **facts, num_warps=4, enable_fp_fusion=False
        )  # fmt: skip

    def _settle(self) -> None:
        x, job, leaf, pairs = self.features, self.job, self.columns.shape[1], 16
        tree = {"L": leaf, "STEPS": leaf.bit_length() - 1, "R": pairs}
        settle_kernel[(self.room // pairs,)](
            x, x.stride(0), x.stride(1), self.pick_row, self.norm, self.value, self.near, self.second, job.initial,
            self.frame.params, self.counters, self.candidates, self.settled, self.doubt, self.columns,
            self.columns.shape[0], ROOM=self.room, TRACKED=self.tracked, INITIAL=self.initial, **tree, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip
        if self.tracked:
            scan_kernel[(4 * processors(x.device),)](
                x, x.stride(0), x.stride(1), x.shape[1], self.picks, self.picks.shape[1], self.pick_norm,
                self.pick_row, self.norm, self.value, job.initial, self.frame.centre, self.frame.params, self.control,
                self.counters, self.candidates, self.settled.view(torch.int64), self.doubt, self.columns,
                self.columns.shape[0], INITIAL=self.initial, MODE=self.arithmetic.mode, **tree, N=64, K=32,
                SEGMENT=512, num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
        trim_kernel[(1,)](
            self.key, self.weight, x.shape[0], self.control, self.counters, self.candidates, self.settled,
            self.block_row, self.block_exact, self.block_weight, self.target, ROOM=self.room, WEIGHTED=self.weighted,
            P=self.block, num_warps=max(self.room // 512, 4), enable_fp_fusion=False,
        )  # fmt: skip

    def _resolve(self) -> None:
        x, leaf, pairs, side = self.features, self.columns.shape[1], 16, 32 if self.block >= 32 else 16
        near_kernel[(self.block // side, self.block // side)](
            x, x.stride(0), x.stride(1), x.shape[1], self.norm, self.frame.centre, self.frame.params, self.counters,
            self.block_row, self.block_exact, self.squared, self.pairs, P=self.block, MODE=self.arithmetic.mode, M=side,
            K=32, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        pairs_kernel[(8 * processors(x.device),)](
            x, x.stride(0), x.stride(1), self.counters, self.block_row, self.squared, self.pairs, self.columns,
            self.columns.shape[0], P=self.block, L=leaf, STEPS=leaf.bit_length() - 1, R=pairs, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip
        # One warp for 512 rows: what is compared stays in its registers, and a step needs no barrier.
        resolve_kernel[(1,)](
            self.key, self.control, self.counters, self.block_row, self.block_exact.view(torch.int64),
            self.block_weight, self.squared.view(torch.int64), self.pick_row, WEIGHTED=self.weighted, P=self.block,
            num_warps=max(self.block // 512, 1), enable_fp_fusion=False,
        )  # fmt: skip
        append_kernel[(triton.cdiv(self.block, 16),)](
            x, x.stride(0), x.stride(1), x.shape[1], self.norm, self.frame.centre, self.frame.params, self.control,
            self.pick_row, self.picks, self.picks.shape[1], self.pick_norm, M=16, K=128, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
