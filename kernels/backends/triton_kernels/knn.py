"""The k-NN driver of ../device with Triton kernels: search, reach, settle, rescue, rank; one launch each per piece."""

from __future__ import annotations

import functools

import torch
import triton
from torch import Tensor

from ...tuning import Budget
from ..device.knn import DeviceSearch, Piece, Shapes, search
from ..device.launch import capability
from ..device.plan import CROWDED, Needs, Plan
from ..device.precision import halves
from .frame import choose_frame, pack
from .neighbours import rank_kernel, reach_kernel, settle_kernel
from .precision import choose_arithmetic
from .primitives import canonical_columns
from .probe import halves_trusted, trusted
from .rescue import merge_kernel, rescue_kernel
from .search import search_kernel
from .tile_table import slot_tile
from .tiles import choose_tile

_PAIRS = 16  # settled by one program
_RANKED = 4096  # comparisons in one program
_ALIGNED = 16  # columns of packed rows: a multiple of what loads of 16 bytes and Triton's specialisation ask for
_SPLIT_TILES, _MOST_SPLITS = 8, 32


def knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    """See device.knn.search."""
    return search(TritonSearch, query, bank, k, budget)


@functools.lru_cache(maxsize=32)
def columns_of(dim: int, device: torch.device) -> Tensor:
    """primitives.canonical_columns, made once: its copy to the device cannot be part of a graph."""
    return canonical_columns(dim, device)


class TritonSearch(DeviceSearch):
    """One call of `knn`."""

    def _prepare(self) -> None:
        device, dim = self.query.device, self.query.shape[1]
        card = capability(device)
        precision, rows = self.budget.precision, {"bank": self.bank, "query": self.query}
        chosen = trusted(choose_arithmetic(precision, card, dim), device)
        halved = not self.captured and halves(precision, *rows.values())
        halved = halved and halves_trusted(self.bank.dtype, device)
        self.frame = choose_frame("knn", chosen, not self.captured, halved, None, **rows)
        self.arithmetic = self.frame.arithmetic
        self.tile = slot_tile(choose_tile("search", card, dim, self.arithmetic.mode), self.slots, card)
        self.columns = columns_of(dim, device)
        leaf = self.columns.shape[1]
        self.leaf = {"L": leaf, "STEPS": leaf.bit_length() - 1}
        self.row_type = torch.int32 if self.bank.shape[0] < 1 << 31 else torch.int64

    @property
    def packed_type(self) -> torch.dtype:
        """Of packed rows: halves that are multiplied as they are stay what they are."""
        return self.bank.dtype if self.arithmetic.mode == "half" else torch.float32

    @property
    def far(self) -> int:
        """What stands for no row."""
        return torch.iinfo(self.row_type).max

    def _needs(self) -> Needs:
        tile, number = self.tile, self.row_type.itemsize
        return Needs(
            tile.rows, tile.others, _ALIGNED, _SPLIT_TILES * tile.others, _MOST_SPLITS,
            query=8 * self.slots, slot=4 + number, part=(8 + number) * self.slots, value=self.packed_type.itemsize,
        )  # fmt: skip

    def _scratch(self, plan: Plan) -> Shapes:
        kept, parts = (plan.splits, plan.queries, plan.slots), (plan.rescuers, CROWDED, plan.slots)
        return {
            "packed": (self.packed_type, (plan.queries, plan.pitch)),
            "packed_norm": (torch.float32, (plan.queries,)),
            "packed_bank": (self.packed_type, (plan.bank, plan.pitch)),
            "value": (torch.float32, kept),
            "row": (self.row_type, kept),
            "exact": (torch.float64, (plan.queries, plan.slots)),
            "reach": (torch.float64, (plan.queries,)),
            "crowded": (torch.int64, (plan.queries,)),
            "part_exact": (torch.float64, parts),
            "part_row": (self.row_type, parts),
        }

    def _some(self, plan: Plan, piece: Piece, packed: bool) -> None:
        query, bank, b, queries = piece.query, self.bank, self.buffers, piece.query.shape[0]
        pack(query, self.frame, b["packed_norm"], b["packed"])
        for lo in range(0, bank.shape[0], plan.bank):
            self._search(plan, queries, lo, min(plan.bank, bank.shape[0] - lo), packed)
        self.count.zero_()
        ranked = _ranked(plan)
        reach_kernel[(triton.cdiv(queries, ranked),)](
            b["value"], b["row"], b["packed_norm"], self.frame.params, b["reach"], b["crowded"], self.count, queries,
            plan.splits, self.k, bank.shape[0], S=plan.slots, FAR=self.far, R=ranked, num_warps=8,
            enable_fp_fusion=False,
        )  # fmt: skip
        pairs = queries * plan.slots
        settle_kernel[(triton.cdiv(pairs, _PAIRS),)](
            query, *query.stride(), bank, *bank.stride(), b["row"], b["exact"], pairs, self.columns,
            self.columns.shape[0], S=plan.slots, R=_PAIRS, **self.leaf, enable_fp_fusion=False,
        )  # fmt: skip

    def _finish(self, plan: Plan, piece: Piece) -> None:
        queries, ranked = piece.query.shape[0], _ranked(plan)
        rank_kernel[(triton.cdiv(queries, ranked),)](
            self.buffers["exact"], self.buffers["row"], piece.squared, piece.rows, queries, self.k, S=plan.slots,
            R=ranked, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip

    def _search(self, plan: Plan, queries: int, lo: int, rows: int, packed: bool) -> None:
        tile, b, norm = self.tile, self.buffers, self.norm
        if not packed:
            pack(self.bank[lo : lo + rows], self.frame, norm[lo : lo + rows], b["packed_bank"])
        span = triton.cdiv(triton.cdiv(rows, tile.others), plan.splits) * tile.others
        search_kernel[(triton.cdiv(queries, tile.rows), plan.splits)](
            b["packed"], b["packed_bank"], norm, b["value"], b["row"], queries, plan.pitch, lo, rows, span,
            S=plan.slots, FAR=self.far, RESIDENT=tile.depth >= plan.pitch, M=tile.rows, N=tile.others, K=tile.depth,
            MODE=self.arithmetic.mode, num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip

    def _settle_crowded(self, plan: Plan, piece: Piece) -> None:
        b, query, thinned = self.buffers, piece.query, self.surplus is not None
        shape = {"S": plan.slots, "FAR": self.far, "M": CROWDED, "N": min(64, self.tile.others)}
        rescue_kernel[(plan.rescuers,)](
            b["packed"], plan.pitch, query, *query.stride(), self.bank, *self.bank.stride(), *self.bank.shape,
            b["packed_norm"], self.norm, self.frame.centre, self.frame.params, b["reach"], b["crowded"], self.count,
            self.norm if self.surplus is None else self.surplus, b["exact"], b["row"], b["part_exact"], b["part_row"],
            self.k, self.columns, self.columns.shape[0], THINNED=thinned, K=min(32, self.tile.depth),
            MODE=self.arithmetic.mode, **shape, **self.leaf, num_stages=1, enable_fp_fusion=False,
        )  # fmt: skip
        merge_kernel[(plan.rescuers,)](
            b["crowded"], self.count, self.bank.shape[0], b["part_exact"], b["part_row"], b["exact"], b["row"],
            **shape, enable_fp_fusion=False,
        )  # fmt: skip


def _ranked(plan: Plan) -> int:
    """Queries that one program ranks the slots of."""
    return max(1, min(64, _RANKED // plan.slots**2))
