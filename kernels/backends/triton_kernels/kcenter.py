"""The k-center driver of ../device with Triton kernels: a pass runs select, update, settle and block."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from ..device.kcenter import SCANNED, DeviceKCenter
from ..device.launch import capability, processors
from ..device.layout import KEY_LEVELS, LEVELS
from .block import append_kernel, near_kernel, pairs_kernel, resolve_kernel
from .frame import choose_frame, pack
from .precision import choose_arithmetic
from .primitives import canonical_columns
from .select import count_kernel, edge_kernel, scatter_kernel
from .settle import scan_kernel, settle_kernel, trim_kernel
from .tiles import choose_tile
from .update import merge_kernel, update_kernel

_WIDE = 16  # columns that Triton's specialisation takes together


class TritonKCenter(DeviceKCenter):
    """See base.KCenterLeaves for the contract, DeviceKCenter for the memory."""

    called = "the Triton backend"

    def _prepare(self) -> None:
        x, job = self.features, self.job
        self.arithmetic = choose_arithmetic(job.budget.precision, capability(x.device), x.shape[1])
        self.tile = choose_tile("update", capability(x.device), x.shape[1], self.arithmetic.mode)
        self.parts, self.tile_rows = 2 * processors(x.device), self.tile.rows
        self.frame = choose_frame(job.name, self.arithmetic, True, features=x)

    def _buffers(self, block: int) -> None:
        super()._buffers(block)
        self.columns = canonical_columns(self.features.shape[1], self.features.device)

    def _pack(self, norm: Tensor, out: Tensor | None = None, rows: Tensor | None = None, first: int = 0) -> None:
        pack(self.features, self.frame, norm, out, rows, first)

    def _enqueue(self, levels: int) -> None:
        self.counters.zero_()
        self._select(levels)
        self._update(listed=True)
        self._settle()
        self._resolve()

    def _refresh_all(self) -> None:
        self._update(listed=False)

    def _select(self, levels: int) -> None:
        rows, eager = self.features.shape[0], not self.job.tuning.lazy
        grid = (self.ages.shape[0],)
        for level, (shift, width) in enumerate(LEVELS[:levels]):
            edge_kernel[grid](
                self.key, rows, self.control, self.counters, LEVEL=level, SHIFT=shift, WIDTH=width,
                OF_ROW=level >= KEY_LEVELS, HIGHEST=level in (0, KEY_LEVELS), B=SCANNED, num_warps=8,
                enable_fp_fusion=False,
            )  # fmt: skip
        count_kernel[grid](
            self.key, self.seen, rows, self.span, self.control, self.counters, self.ages, self.candidates,
            ROOM=self.room, EAGER=eager, B=SCANNED, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        scatter_kernel[grid](
            self.key, self.seen, rows, self.span, self.control, self.counters, self.ages, self.stale, EAGER=eager,
            PROGRAMS=triton.next_power_of_2(grid[0]), B=SCANNED // 2, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip

    def _update(self, listed: bool) -> None:
        x, job, tile, (rows, dim) = self.features, self.job, self.tile, self.features.shape
        known = (self.norm, self.seen, self.value, self.near, self.second, self.key, job.initial, self.weight)
        notes = (self.frame.params, self.control, self.counters, self.candidates, self.part, self.part_near)
        facts = {"ROOM": self.room, "LISTED": listed, "TRACKED": self.tracked, "INITIAL": self.initial,
                 "WEIGHTED": self.weighted, "PARTS": self.parts, "M": tile.rows}  # fmt: skip
        wide = math.gcd(x.stride(0), dim, _WIDE)
        update_kernel[(self.parts,)](
            x, x.stride(0) // wide, x.stride(1), rows, dim // wide, self.picks.shape[1] // wide, self.stale,
            self.picks, self.pick_norm, *known, self.frame.centre, *notes, **facts, PLAIN=self.plain,
            MODE=self.arithmetic.mode, V=wide, N=tile.others, K=tile.depth, num_warps=tile.warps,
            num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
        merge_kernel[(max(self.parts // 2, 1),)](
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
