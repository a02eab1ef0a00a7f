"""The k-center driver of ../device with Triton kernels: a pass runs select, update, settle and block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import triton
from torch import Tensor

from ..device.kcenter import SCANNED, DeviceKCenter, Shapes
from ..device.launch import capability, processors
from ..device.layout import BINS, KEY_LEVELS, LEVELS
from ..device.precision import halves
from .block import append_kernel, near_kernel, pairs_kernel, resolve_kernel
from .frame import choose_frame, pack
from .launch import Launch, older_triton
from .narrow import narrow_kernel
from .precision import choose_arithmetic
from .primitives import canonical_columns
from .probe import halves_trusted, trusted
from .select import count_kernel, edge_kernel, scatter_kernel
from .settle import scan_kernel, settle_kernel, trim_kernel
from .tiles import choose_tile
from .update import merge_kernel, update_kernel

_WIDE = 16  # columns that Triton's specialisation takes together


class TritonKCenter(DeviceKCenter):
    """See base.KCenterLeaves for the contract, DeviceKCenter for the memory."""

    called = "the Triton backend"
    own: Tensor  # bins that a program counts in
    graphs = True  # 14 launches from Python

    def _prepare(self) -> None:
        x, job, card = self.features, self.job, capability(self.features.device)
        chosen = trusted(choose_arithmetic(job.budget.precision, card, x.shape[1]), x.device)
        halved = halves(job.budget.precision, x) and halves_trusted(x.dtype, x.device)
        self.frame = choose_frame(job.name, chosen, True, halved, others=self.others, features=x)
        self.arithmetic = self.frame.arithmetic
        self.tile = choose_tile("update", card, x.shape[1], self.arithmetic.mode)
        self.parts, self.tile_rows = 2 * processors(x.device), self.tile.rows

    def _scratch(self) -> Shapes:
        """Beside those of all backends: bins of each program of a histogram."""
        found = super()._scratch()
        return found | {"own": (torch.int32, (found["ages"][1][0] if older_triton() else 1, BINS))}

    def _buffers(self, block: int) -> None:
        super()._buffers(block)
        self.columns = canonical_columns(self.features.shape[1], self.features.device)
        # Of a pass, by its levels; of a rank's leaves, by name.
        self._launches: dict[int | str, list[Launch]] = {}

    def _pack(
        self, x: Tensor, norm: Tensor, out: Tensor | None = None, rows: Tensor | None = None, first: int = 0
    ) -> None:
        pack(x, self.frame, norm, out, rows, first)

    def _enqueue(self, levels: int) -> None:
        self.counters.zero_()
        self._again(levels, lambda: (
            self._select(levels), self._update(listed=True), self._narrow(), self._settle(), self._trim(),
            self._resolve(),
        ))  # fmt: skip

    def _refresh_all(self) -> None:
        for launch in self._update(listed=False):
            launch()

    def _refresh_listed(self) -> None:
        self._again("refresh", lambda: (self._update(listed=True),))

    def _settle_listed(self) -> None:
        self._again("settle", lambda: (self._settle(),))

    def _again(self, name: int | str, parts: Callable[[], tuple[Iterator[Launch], ...]]) -> None:
        if name not in self._launches:
            self._launches[name] = [launch for part in parts() for launch in part]
        for launch in self._launches[name]:
            launch()

    def _select(self, levels: int) -> Iterator[Launch]:
        rows, eager = self.features.shape[0], not self.job.tuning.lazy
        grid = (self.ages.shape[0],)
        for level, (shift, width) in enumerate(LEVELS[:levels]):
            yield Launch(
                edge_kernel, grid, self.key, rows, self.control, self.counters, self.own, LEVEL=level, SHIFT=shift,
                WIDTH=width, OF_ROW=level >= KEY_LEVELS, HIGHEST=level in (0, KEY_LEVELS), OWN=older_triton(),
                B=SCANNED, num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
        yield Launch(
            count_kernel, grid, self.key, self.seen, rows, self.span, self.control, self.counters, self.ages,
            self.candidates, LIST=self.listed, EAGER=eager, B=SCANNED, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        yield Launch(
            scatter_kernel, grid, self.key, self.seen, rows, self.span, self.control, self.counters, self.ages,
            self.stale, EAGER=eager, PROGRAMS=triton.next_power_of_2(grid[0]), B=SCANNED // 2, num_warps=8,
            enable_fp_fusion=False,
        )  # fmt: skip

    def _update(self, listed: bool) -> Iterator[Launch]:
        x, job, tile, (rows, dim) = self.features, self.job, self.tile, self.features.shape
        known = (self.norm, self.seen, self.value, self.near, self.second, self.key, job.initial, self.weight)
        notes = (self.frame.params, self.control, self.counters, self.candidates, self.part, self.part_near)
        facts = {"LIST": self.listed, "LISTED": listed, "TRACKED": self.tracked, "INITIAL": self.initial,
                 "WEIGHTED": self.weighted, "PARTS": self.parts, "M": tile.rows}  # fmt: skip
        wide = math.gcd(x.stride(0), dim, _WIDE)
        yield Launch(
            update_kernel, (self.parts,), x, x.stride(0) // wide, x.stride(1), rows, dim // wide,
            self.picks.shape[1] // wide, self.stale, self.picks, self.pick_norm, *known, self.frame.centre, *notes,
            **facts, PLAIN=self.plain, MODE=self.arithmetic.mode, V=wide, N=tile.others, K=tile.depth,
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
        yield Launch(
            merge_kernel, (max(self.parts // 2, 1),), rows, self.stale, *known, *notes, **facts, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip

    def _narrow(self) -> Iterator[Launch]:
        yield Launch(
            narrow_kernel, (1,), self.key, self.control, self.counters, self.candidates, LIST=self.listed,
            ROOM=self.room, B=SCANNED, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip

    def _settle(self) -> Iterator[Launch]:
        x, y, job, leaf, pairs = self.features, self.picked_from, self.job, self.columns.shape[1], 16
        tree = {"L": leaf, "STEPS": leaf.bit_length() - 1, "R": pairs}
        yield Launch(
            settle_kernel, (self.room // pairs,), x, x.stride(0), x.stride(1), y, y.stride(0), y.stride(1),
            self.pick_row, self.norm, self.value, self.near, self.second, job.initial, self.frame.params,
            self.counters, self.candidates, self.settled, self.doubt, self.columns, self.columns.shape[0],
            ROOM=self.room, TRACKED=self.tracked, INITIAL=self.initial, **tree, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        if self.tracked:
            yield Launch(
                scan_kernel, (4 * processors(x.device),), x, x.stride(0), x.stride(1), x.shape[1], y,
                y.stride(0), y.stride(1), self.picks, self.picks.shape[1], self.pick_norm, self.pick_row, self.norm,
                self.value, job.initial, self.frame.centre, self.frame.params, self.control, self.counters,
                self.candidates, self.settled.view(torch.int64), self.doubt, self.columns, self.columns.shape[0],
                INITIAL=self.initial, MODE=self.arithmetic.mode, **tree, N=64, K=32, SEGMENT=512, num_warps=4,
                enable_fp_fusion=False,
            )  # fmt: skip

    def _trim(self) -> Iterator[Launch]:
        x = self.features
        yield Launch(
            trim_kernel, (1,), self.key, self.weight, x.shape[0], self.control, self.counters, self.candidates,
            self.settled, self.block_row, self.block_exact, self.block_weight, self.target, ROOM=self.room,
            WEIGHTED=self.weighted, P=self.block, num_warps=max(self.room // 512, 4), enable_fp_fusion=False,
        )  # fmt: skip

    def _resolve(self) -> Iterator[Launch]:
        x, leaf, pairs, side = self.features, self.columns.shape[1], 16, 32 if self.block >= 32 else 16
        exact_bits, squared_bits = self.block_exact.view(torch.int64), self.squared.view(torch.int64)
        yield Launch(
            near_kernel, (self.block // side, self.block // side), x, x.stride(0), x.stride(1), x.shape[1], self.norm,
            self.frame.centre, self.frame.params, self.counters, self.block_row, self.block_exact, self.pairs,
            P=self.block, MODE=self.arithmetic.mode, M=side, K=32, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        yield Launch(
            pairs_kernel, (8 * processors(x.device),), x, x.stride(0), x.stride(1), self.counters, self.block_row,
            self.squared, self.pairs, self.columns, self.columns.shape[0], P=self.block, L=leaf,
            STEPS=leaf.bit_length() - 1, R=pairs, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        # A pair a thread: with more of them triton moves addresses between threads, with barriers, at every step.
        yield Launch(
            resolve_kernel, (1,), self.control, self.counters, self.block_row, exact_bits, self.block_weight,
            self.pairs, squared_bits, WEIGHTED=self.weighted, P=self.block, B=512, num_warps=16,
            enable_fp_fusion=False,
        )  # fmt: skip
        yield Launch(
            append_kernel, (triton.cdiv(self.block, 16),), x, x.stride(0), x.stride(1), x.shape[1], self.norm,
            self.frame.centre, self.frame.params, self.key, self.control, self.counters, self.block_row, exact_bits,
            self.pairs, squared_bits, self.pick_row, self.pick_squared.view(torch.int64), self.picks,
            self.picks.shape[1], self.pick_norm, P=self.block, M=16, N=128, K=128, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
