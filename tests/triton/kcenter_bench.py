"""What the tests of single k-center kernels share: a bench with the tensors of a pass, and inputs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
import triton.language as tl

from patchcore_fast.kernels.backends.device.precision import halves
from patchcore_fast.kernels.backends.triton_kernels import layout, settle
from patchcore_fast.kernels.backends.triton_kernels.frame import choose_frame, pack
from patchcore_fast.kernels.backends.triton_kernels.launch import capability
from patchcore_fast.kernels.backends.triton_kernels.precision import choose_arithmetic
from patchcore_fast.kernels.backends.triton_kernels.primitives import canonical_columns
from patchcore_fast.kernels.backends.triton_kernels.tiles import Tile
from patchcore_fast.kernels.backends.triton_kernels.update import merge_kernel, update_kernel
from patchcore_fast.kernels.exact import paired_squared
from patchcore_fast.kernels.rounding import ErrorBound

from ..kernels.cases import gaussian, integers

at = SimpleNamespace(**{name: place.value for name, place in vars(layout).items() if isinstance(place, tl.constexpr)})
DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
UNTOUCHED = -77  # what tests put where a kernel must not write
PLAIN_LAUNCH = {"num_warps": 4, "enable_fp_fusion": False}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_bits(x: torch.Tensor | float) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float64).view(torch.int64)


def tree(dim: int) -> tuple[torch.Tensor, dict[str, int]]:
    columns = canonical_columns(dim, DEVICE)
    leaf = columns.shape[1]
    return columns, {"L": leaf, "STEPS": leaf.bit_length() - 1, "R": 16}


def keys() -> dict[str, torch.Tensor]:
    g = random(4)
    ties = torch.randint(0, 4, (300,), generator=g).double()
    random_keys = torch.rand(300, generator=g, dtype=torch.float64)
    return {
        "distinct": random_keys,
        "close": 1 + random_keys * 1e-14,
        "ties": ties,
        "constant": torch.full((300,), 0.3, dtype=torch.float64),
        "infinite": torch.where(ties > 1, torch.inf, random_keys),
        "zero": torch.where(ties > 2, random_keys, 0.0),
        "subnormal": random_keys * 1e-310,
        "all sizes": torch.exp2(random_keys * 2000 - 1000),
        "picked": torch.where(ties > 0, random_keys, -1.0),
        "all picked": torch.full((300,), -1.0, dtype=torch.float64),
        "one": random_keys[:1],
    }


SETTLED = {
    "integers": integers(90, 12),
    "float32": gaussian(90, 37),
    "two leaves": gaussian(90, 150),
    "duplicates": gaussian(9, 40).repeat(10, 1),
    "equal distances": torch.eye(90) * 0.1,
    "far": gaussian(90, 8) + 1e4,
    "beyond float32": 1 + gaussian(90, 8).double() * 1e-9,
    "half": (gaussian(180, 70) + 9).half()[::2, ::2],
    "float16": (gaussian(90, 37) * 2).half(),
    "bfloat16": gaussian(180, 70).bfloat16()[::2, ::2],
    "double": gaussian(90, 5).double() * 1e-140,
}


class Bench:
    """Features, some of their rows picked, and what the kernels of a pass share."""

    def __init__(
        self, x: torch.Tensor, picks: int, room: int = 128, size: int = 32, precision: str = "float32"
    ) -> None:
        self.x = x.to(DEVICE)
        n, dim = x.shape
        chosen = choose_arithmetic(precision, capability(DEVICE), dim)
        self.frame = choose_frame("test", chosen, True, halves(precision, x), features=self.x)
        self.mode, self.room, self.size, self.picks = self.frame.arithmetic.mode, room, size, picks
        self.scale = self.frame.squared_scale
        self.bound = ErrorBound(*self.frame.params[1:4].tolist())
        self.plain = float(self.scale) == 1 and not bool(self.frame.centre.any()) and x.dtype != torch.float64
        g = random(3)
        self.pick_row = torch.full((picks + size,), UNTOUCHED, dtype=torch.int64, device=DEVICE)
        self.pick_row[:picks] = torch.randperm(n, generator=g)[:picks].to(DEVICE)
        self.norm = torch.full((n,), torch.nan, device=DEVICE)
        kind = x.dtype if self.mode == "half" else torch.float32
        self.packed = torch.full((picks + size, 16 * -(-dim // 16)), torch.nan, device=DEVICE, dtype=kind)
        self.pick_norm = torch.full((picks + size,), torch.nan, device=DEVICE)
        pack(self.x, self.frame, self.norm)
        pack(self.x, self.frame, self.pick_norm, self.packed, self.pick_row[:picks])
        framed = ((self.x.double() - self.frame.centre.double()) * self.scale.sqrt()).float().double()
        self.fast = (framed[:, None] - framed[self.pick_row[:picks]]).square().sum(2)  # [N, picks], in the frame
        self.slack = self.bound.norm * self.norm.double() + self.bound.absolute  # of a fast distance, + relative * d^2
        rows, other = torch.arange(n, device=DEVICE).repeat_interleave(picks), self.pick_row[:picks].repeat(n)
        self.true = paired_squared(self.x, rows, self.x, other).view(n, picks)
        self.control = torch.zeros(at.CONTROL, dtype=torch.int64, device=DEVICE)
        self.control[at.COUNT], self.control[at.EDGE_ROW] = picks, at.LAST_ROW  # nothing is cut off
        self.control[at.END] = picks + size
        self.counters = torch.zeros(at.HISTOGRAM + len(layout.LEVELS) * at.BINS, dtype=torch.int32, device=DEVICE)
        self.candidates = torch.full((room,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
        self.initial = (torch.rand(n, generator=g, dtype=torch.float64) * 3).to(DEVICE) * self.true.median()
        self.initial[::5] = torch.inf
        self.weight = torch.rand(n, generator=g, dtype=torch.float64).to(DEVICE)
        self.weight[::7] = 0
        self.columns, self.tree = tree(dim)
        self.forget()

    def forget(self, seen: torch.Tensor | None = None) -> None:
        """Rows have met their first `seen` picks; by default none."""
        n = self.x.shape[0]
        self.seen = torch.zeros(n, dtype=torch.int32, device=DEVICE) if seen is None else seen.clone()
        met = self.fast.masked_fill(torch.arange(self.picks, device=DEVICE) >= self.seen[:, None], torch.inf)
        two = torch.nn.functional.pad(met, (0, 2), value=torch.inf).topk(2, dim=1, largest=False)
        self.value, self.second = two.values[:, 0].float().contiguous(), two.values[:, 1].float().contiguous()
        self.near = torch.where(self.seen > 0, two.indices[:, 0], -1).int()
        self.key = torch.full((n,), torch.inf, dtype=torch.float64, device=DEVICE)

    def list(self, rows: torch.Tensor) -> None:
        """Candidates."""
        self.candidates[: rows.shape[0]] = rows.to(DEVICE, torch.int32)
        self.counters[at.INSIDE] = rows.shape[0]

    def update(
        self, tile: Tile, parts: int, stale: torch.Tensor | None, tracked: bool, initial: bool, weighted: bool
    ) -> None:
        """Rows, or those in `stale`, meet the picks that they have not seen, in up to `parts` programs."""
        n, dim = self.x.shape
        if stale is not None:
            self.counters[at.STALE] = stale.shape[0]
        part = torch.full((2, parts, tile.rows), torch.nan, device=DEVICE)
        part_near = torch.full((parts, tile.rows), UNTOUCHED, dtype=torch.int32, device=DEVICE)
        listed = self.near if stale is None else stale.to(DEVICE, torch.int32)
        known = (self.norm, self.seen, self.value, self.near, self.second, self.key, self.initial, self.weight)
        notes = (self.frame.params, self.control, self.counters, self.candidates, part, part_near)
        facts = {"LIST": self.room, "LISTED": stale is not None, "TRACKED": tracked, "INITIAL": initial,
                 "WEIGHTED": weighted, "PARTS": parts, "M": tile.rows}  # fmt: skip
        wide = math.gcd(self.x.stride(0), dim, 16)
        update_kernel[(parts,)](
            self.x, self.x.stride(0) // wide, self.x.stride(1), n, dim // wide, self.packed.shape[1] // wide, listed,
            self.packed, self.pick_norm, *known, self.frame.centre, *notes, **facts, PLAIN=self.plain, MODE=self.mode,
            V=wide, N=tile.others, K=tile.depth, num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
        merge_kernel[(max(parts // 2, 1),)](n, listed, *known, *notes, **facts, **PLAIN_LAUNCH)

    def settle(self, initial: bool) -> tuple[torch.Tensor, torch.Tensor]:
        exact = torch.full((self.room,), torch.nan, dtype=torch.float64, device=DEVICE)
        doubt = torch.full((self.room,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
        settle.settle_kernel[(self.room // 16,)](
            self.x, *self.x.stride(), self.x, *self.x.stride(), self.pick_row, self.norm, self.value, self.near,
            self.second, self.initial, self.frame.params, self.counters, self.candidates, exact, doubt, self.columns,
            self.columns.shape[0], ROOM=self.room, TRACKED=self.bound.relative > 0, INITIAL=initial, **self.tree,
            **PLAIN_LAUNCH,
        )  # fmt: skip
        return exact, doubt
