"""The k-center kernels that compute, each by itself, against float64: what they write and what they leave alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("triton", minversion="3.3")
import triton
import triton.language as tl

from patchcore_fast.kernels.backends.triton_kernels import block, settle
from patchcore_fast.kernels.backends.triton_kernels.frame import choose_frame, look, pack
from patchcore_fast.kernels.backends.triton_kernels.precision import Arithmetic
from patchcore_fast.kernels.backends.triton_kernels.primitives import canonical, canonical_columns, widen
from patchcore_fast.kernels.backends.triton_kernels.tiles import Tile
from patchcore_fast.kernels.exact import paired_squared, squared_distance
from patchcore_fast.kernels.rounding import ErrorBound
from patchcore_fast.kernels.rounding import choose_frame as choose_frame_on_host

from ..kernels.cases import awkward, gaussian, integers
from .kcenter_bench import DEVICE, PLAIN_LAUNCH, SETTLED, TYPES, UNTOUCHED, Bench, as_bits, at, random, tree


@triton.jit
def canonical_kernel(
    x_ptr, x_row, x_column, y_ptr, y_row, y_column, out_ptr, count, columns_ptr, leaves,
    L: tl.constexpr, STEPS: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, R).to(tl.int64)
    mask = row < count
    total = canonical(
        x_ptr + row * x_row, x_column, y_ptr + row * y_row, y_column, mask, columns_ptr, leaves, L, STEPS, R
    )
    tl.store(out_ptr + row, total, mask=mask)


@triton.jit
def widen_kernel(squared_ptr, norm_ptr, params_ptr, out_ptr, count, R: tl.constexpr):
    place = tl.arange(0, R)
    mask = place < count
    wide = widen(tl.load(squared_ptr + place, mask=mask), tl.load(norm_ptr + place, mask=mask), params_ptr)
    tl.store(out_ptr + place, wide, mask=mask)


def canonical_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.full((x.shape[0] + 3,), torch.nan, dtype=torch.float64, device=DEVICE)
    columns, shape = tree(x.shape[1])
    canonical_kernel[(1,)](x, *x.stride(), y, *y.stride(), out, x.shape[0], columns, columns.shape[0], **shape,
                           **PLAIN_LAUNCH)  # fmt: skip
    assert bool(out[x.shape[0] :].isnan().all())
    return out[: x.shape[0]]


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 31, 33, 64, 127, 128, 129, 255, 257, 300, 513, 1000, 1029])
def test_canonical_has_the_bits_of_the_reference(dim: int) -> None:
    x, y = gaussian(13, dim).to(DEVICE), (gaussian(13, dim, seed=1) * torch.logspace(-9, 9, 13)[:, None]).to(DEVICE)
    assert torch.equal(canonical_of(x, y), squared_distance(x, y))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_canonical_of_all_types_and_strides(dtype: torch.dtype) -> None:
    x = (gaussian(26, 300) * 3).to(DEVICE, dtype)
    for a, b in (
        (x[::2, ::3], x[1::2, 1::3]),
        (x[:13].t()[:13], x[13:].t()[50:63]),
        (x[:1, :70].expand(9, 70), x[:9, 9:79]),
    ):
        assert torch.equal(canonical_of(a, b), squared_distance(a, b))


@pytest.mark.parametrize("dim", [1, 2, 7, 128, 129, 1000])
def test_every_column_has_one_place(dim: int) -> None:
    columns = canonical_columns(dim, torch.device("cpu"))
    assert columns[columns >= 0].sort().values.tolist() == list(range(dim))
    assert columns.numel() == 1 << (dim - 1).bit_length() and columns.shape[1] <= 128


@pytest.mark.parametrize("bound", [ErrorBound(0.0, 0.0, 0.0), ErrorBound(1e-5, 3e-5, 1e-20)], ids=["exact", "rounded"])
def test_widen(bound: ErrorBound) -> None:
    squared = torch.tensor([-1.0, 0.0, 1e-30, 2.5, 1e30, torch.inf], dtype=torch.float64, device=DEVICE)
    norm = torch.tensor([0.0, 1.0, 3.0, 1e10, 1e30, 5.0], device=DEVICE)
    params = torch.tensor([1.0, bound.relative, bound.norm, bound.absolute, 1.0], dtype=torch.float64, device=DEVICE)
    out = torch.full((6,), torch.nan, dtype=torch.float64, device=DEVICE)
    widen_kernel[(1,)](squared, norm, params, out, 6, R=8, **PLAIN_LAUNCH)
    torch.testing.assert_close(out, bound.widen(squared, norm), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (70, 3), (33, 129)], ids=str)
def test_look(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    whole = torch.randint(-9, 10, shape, generator=random()).to(DEVICE, dtype)
    last = (shape[0] - 1, shape[1] - 1)
    for value, broken in ((-12.0, 0), (12.5, 1), (torch.inf, None), (torch.nan, None)):
        x = whole.clone()
        x[last] = value
        for matrix in (x, torch.stack([x, x.new_full(x.shape, 99.5)], 2)[:, :, 0]):
            largest = torch.zeros(1, dtype=torch.int64, device=DEVICE)
            seen = torch.zeros(1, dtype=torch.int32, device=DEVICE)
            look(matrix, largest, seen)
            assert float(largest.view(torch.float64)) == (torch.inf if value != value else abs(value))
            assert broken is None or int(seen) == broken


@pytest.mark.parametrize("name", awkward())
def test_frame_is_that_of_the_host(name: str) -> None:
    x = awkward()[name].to(DEVICE)
    ours = choose_frame("test", Arithmetic("ieee"), True, features=x)
    host, _ = choose_frame_on_host("test", features=x)
    relative, norm, absolute = ours.params[1:4].tolist()
    assert math.prod(ours.params[[0, 4]].tolist()) == host.scale
    assert (relative, norm, absolute) == pytest.approx((host.error.relative, host.error.norm, host.error.absolute))
    assert torch.equal(
        ours.centre.cpu(), (torch.zeros(x.shape[1]) if host.centre is None else host.centre.cpu()).float()
    )


@pytest.mark.parametrize(
    "name", ["gaussian", "far from the origin", "huge", "float16", "float64 near underflow", "strided"]
)
def test_pack(name: str) -> None:
    x = awkward()[name].to(DEVICE)
    frame = choose_frame("test", Arithmetic("ieee"), True, features=x)
    rows = torch.tensor([7, 299, 0, 7, 150], device=DEVICE)
    out = torch.full((9, 29), UNTOUCHED, device=DEVICE, dtype=torch.float32)
    norm = torch.full((9,), torch.nan, device=DEVICE)
    pack(x, frame, norm, out, rows, first=2)
    scale = frame.params[0] * frame.params[4]
    expected = ((x[rows].double() - frame.centre.double()) * scale).float()
    torch.testing.assert_close(out[2:7, :24], expected, rtol=2**-23, atol=0)
    assert bool((out[2:7, 24:] == 0).all()) and bool((out[[0, 1, 7, 8]] == UNTOUCHED).all())
    torch.testing.assert_close(norm[2:7], out[2:7, :24].double().square().sum(1).float(), rtol=2**-23, atol=0)
    assert bool(norm[[0, 1, 7, 8]].isnan().all())
    every = torch.full((300,), torch.nan, device=DEVICE)
    pack(x, frame, every)
    assert torch.equal(every[rows], norm[2:7]) and bool(every.isfinite().all())


UPDATES = {
    "integers": (integers(70, 20), 40), "float32": (gaussian(70, 37), 33), "far": (gaussian(70, 37) + 1e4, 33),
    "huge": (gaussian(50, 5) * 1e30, 20), "half": ((gaussian(60, 30) * 3).half()[:, ::2], 17),
    "bfloat16": ((gaussian(60, 30) * 3).bfloat16().t().contiguous().t(), 17),
    "bfloat16, far": ((gaussian(60, 30) * 3 + 40).bfloat16(), 17), "half, integers": (integers(60, 30).half(), 17),
    "half as float32": ((gaussian(60, 30) * 3).half(), 17), "double": (gaussian(60, 18).double() * 1e-140, 17),
    "one column": (gaussian(40, 1), 1),
}  # fmt: skip


@pytest.mark.parametrize("listed", [False, True], ids=["all", "listed"])
@pytest.mark.parametrize(
    "initial, weighted",
    [*(pytest.param(initial, False, marks=pytest.mark.thorough) for initial in (False, True)), (True, True)],
    ids=["plain", "initial", "weighted"],
)
@pytest.mark.parametrize("parts", [2, 13])  # fewer programs than tiles of rows; and several to a tile
@pytest.mark.parametrize("name", UPDATES)
def test_update(name: str, parts: int, initial: bool, weighted: bool, listed: bool) -> None:
    x, picks = UPDATES[name]
    bench, n = Bench(x, picks, precision="ieee" if "as float32" in name else "float32"), x.shape[0]
    assert (bench.mode == "half") == (x.dtype.itemsize == 2 and "far" not in name and "as float32" not in name)
    bench.forget(
        torch.randint(0, picks + 1, (n,), generator=random(1), dtype=torch.int32).to(DEVICE)
    )  # mixed in a tile
    bench.key[::3] = bench.true.median() / 8  # known from elsewhere
    bench.key[bench.pick_row[:picks]] = -1.0
    stale = torch.randperm(n, generator=random(2))[: n // 2 + 3] if listed else None
    edge = float(bench.true.min(1).values.median()) / 3
    bench.control[at.EDGE], bench.control[at.EDGE_ROW] = as_bits(edge), at.LAST_ROW
    before = {what: getattr(bench, what).clone() for what in ("seen", "value", "near", "second", "key")}
    bench.update(Tile(16, 16, 16, 4, 1), parts, stale, True, initial, weighted)

    done = torch.zeros(n, dtype=torch.bool, device=DEVICE)
    done[slice(None) if stale is None else stale.to(DEVICE)] = True
    for what, old in before.items():
        assert torch.equal(getattr(bench, what)[~done], old[~done]), what
    assert bool((bench.seen[done] == picks).all())
    assert int(bench.control[at.DISTANCES]) == int((picks - before["seen"].long())[done].sum())

    two = torch.nn.functional.pad(bench.fast, (0, 1), value=torch.inf).topk(2, dim=1, largest=False).values
    for found, wanted in ((bench.value, two[:, 0]), (bench.second, two[:, 1])):
        slack = bench.slack + bench.bound.relative * wanted.nan_to_num(posinf=0)
        assert bool(((found - wanted).abs() <= slack)[done & wanted.isfinite()].all())
        assert torch.equal(found.isinf()[done], wanted.isinf()[done])
    nearest = bench.fast.gather(1, bench.near.long().clamp_min(0)[:, None])[:, 0]
    assert bool((nearest <= two[:, 0] + 2 * bench.slack + 2 * bench.bound.relative * two[:, 0])[done].all())

    limit = bench.bound.widen(bench.value.double(), bench.norm) / bench.scale
    least = bench.true.min(1).values
    if initial:
        limit, least = torch.minimum(limit, bench.initial), torch.minimum(least, bench.initial)
    if weighted:
        limit, least = (torch.where(bench.weight > 0, bench.weight * v, 0.0) for v in (limit, least))
    expected = torch.minimum(before["key"], limit)
    torch.testing.assert_close(bench.key[done], expected[done], rtol=1e-13, atol=0)
    assert bool((bench.key >= torch.minimum(before["key"], least))[done].all())  # an upper bound, to the last bit
    inside = (done & (bench.key >= edge)).nonzero()[:, 0].tolist()
    assert 0 < len(inside) == int(bench.counters[at.INSIDE])
    assert sorted(bench.candidates[: len(inside)].tolist()) == inside
    assert bool((bench.candidates[len(inside) :] == UNTOUCHED).all())


@pytest.mark.parametrize("parts", [1, 8])
@pytest.mark.parametrize("tile", [Tile(64, 64, 64, 4, 1), Tile(32, 16, 16, 4, 1)], ids=str)
def test_update_without_the_nearest(tile: Tile, parts: int) -> None:
    bench = Bench(integers(70, 20), 40, room=16)
    bench.forget(torch.randint(0, 41, (70,), generator=random(1), dtype=torch.int32).to(DEVICE))
    bench.near, bench.second = bench.near.fill_(UNTOUCHED), bench.second.fill_(UNTOUCHED)
    bench.update(tile, parts, None, False, False, False)
    assert torch.equal(bench.value.double(), bench.true.min(1).values) and torch.equal(
        bench.key, bench.true.min(1).values
    )
    assert bool((bench.near == UNTOUCHED).all()) and bool((bench.second == UNTOUCHED).all())
    # All 70 reach an edge of zero; there is room for 16, and the others are counted.
    assert int(bench.counters[at.INSIDE]) == 70
    assert len(set(bench.candidates.tolist())) == 16 and min(bench.candidates.tolist()) >= 0


def test_update_of_rows_that_are_far_apart() -> None:
    # 8 GB of addresses, of which a few pages are touched. With 32 bits row 1 would be read before row 0.
    step = 1 << 31
    try:
        memory = torch.from_numpy(np.zeros(2 * step + 16, dtype=np.float16))
    except MemoryError:
        pytest.skip("8 GB of addresses cannot be had here")
    x = memory.as_strided((2, 16), (step, 1), step)
    x.copy_(gaussian(2, 16))
    bench = Bench(x, 1)
    bench.update(Tile(16, 16, 16, 4, 1), 2, None, True, False, False)
    slack = bench.slack + bench.bound.relative * bench.fast[:, 0]
    assert bool(((bench.value - bench.fast[:, 0]).abs() <= slack).all()) and float(bench.fast.max()) > 1


@pytest.mark.parametrize("initial", [False, True], ids=["plain", "initial"])
@pytest.mark.parametrize("name", SETTLED)
def test_settle_and_scan(name: str, initial: bool) -> None:
    bench = Bench(SETTLED[name], 45)
    tracked = bench.bound.relative > 0
    bench.control[at.EDGE] = (1 << 63) - 1
    bench.update(Tile(32, 32, 32, 4, 1), 2, None, tracked, initial, False)
    rows = torch.randperm(90, generator=random(6))[:30]
    bench.list(rows)
    exact, doubt = bench.settle(initial)
    expected = bench.true.min(1).values
    expected = (torch.minimum(expected, bench.initial) if initial else expected)[rows.to(DEVICE)]
    doubts = doubt[: int(bench.counters[at.DOUBT])].tolist()
    assert len(set(doubts)) == len(doubts) and set(doubts) <= set(range(30))
    assert bool((doubt[len(doubts) :] == UNTOUCHED).all()) and bool(exact[30:].isnan().all())
    sure = torch.ones(30, dtype=torch.bool, device=DEVICE)
    sure[doubts] = False
    assert torch.equal(exact[:30][sure], expected[sure])
    assert tracked or not doubts
    if name in ("duplicates", "equal distances"):
        assert len(doubts) > 5  # what follows is a test
    bits = exact.view(torch.int64)
    settle.scan_kernel[(3,)](
        bench.x, *bench.x.stride(), bench.x.shape[1], bench.x, *bench.x.stride(), bench.packed, bench.packed.shape[1],
        bench.pick_norm, bench.pick_row, bench.norm, bench.value, bench.initial, bench.frame.centre, bench.frame.params,
        bench.control, bench.counters, bench.candidates, bits, doubt, bench.columns, bench.columns.shape[0],
        INITIAL=initial, MODE=bench.mode, **bench.tree, N=16, K=16, SEGMENT=32, **PLAIN_LAUNCH,
    )  # fmt: skip
    assert torch.equal(exact[:30], expected) and bool(exact[30:].isnan().all())


def test_settle_before_the_first_pick() -> None:
    bench = Bench(gaussian(90, 5), 3, room=64)
    bench.list(torch.arange(40))
    exact, _ = bench.settle(True)  # nothing was compared yet
    assert torch.equal(exact[:40], bench.initial[:40]) and int(bench.counters[at.DOUBT]) == 0


@pytest.mark.parametrize("count", [1, 17, 32])
@pytest.mark.parametrize("name", SETTLED)
def test_near_and_pairs(name: str, count: int) -> None:
    bench, size = Bench(SETTLED[name], 9), 32
    rows = torch.randperm(90, generator=random(9))[:count].to(DEVICE)
    row = torch.full((size,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
    exact = torch.full((size,), torch.nan).double()
    exact = exact.to(DEVICE)
    row[:count], exact[:count] = rows.int(), bench.true.min(1).values[rows]
    bench.counters[at.BLOCK] = count
    squared = torch.full((size * size,), torch.nan, dtype=torch.float64, device=DEVICE)
    pairs = torch.full((size * size,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
    block.near_kernel[(2, 2)](
        bench.x, *bench.x.stride(), bench.x.shape[1], bench.norm, bench.frame.centre, bench.frame.params,
        bench.counters, row, exact, pairs, P=size, MODE=bench.mode, M=16, K=32, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    marked = int(bench.counters[at.PAIRS])
    i, j = pairs[:marked].long() // size, pairs[:marked].long() % size
    assert len(set(pairs[:marked].tolist())) == marked and bool((i < j).all()) and bool((j < count).all())
    assert bool((pairs[marked:] == UNTOUCHED).all())
    block.pairs_kernel[(3,)](
        bench.x, *bench.x.stride(), bench.counters, row, squared, pairs, bench.columns, bench.columns.shape[0], P=size,
        **bench.tree, **PLAIN_LAUNCH,
    )  # fmt: skip
    true = paired_squared(bench.x, rows.repeat_interleave(count), bench.x, rows.repeat(count)).view(count, count)
    assert torch.equal(squared[:marked], true[i, j]) and bool(squared[marked:].isnan().all())
    reach = torch.maximum(exact[:count, None], exact[:count])
    listed = torch.zeros(count, count, dtype=torch.bool, device=DEVICE)
    listed[i, j] = True
    assert bool(listed[(true <= reach).triu(1)].all())
    if name == "float32" and count > 1:
        assert marked <= int((true <= reach * 1.01).triu(1).sum())  # the blur lets in few others


@pytest.mark.parametrize("accepted", [0, 1, 16, 21])
@pytest.mark.parametrize("name", ["float32", "far", "half", "float16", "bfloat16", "double"])
def test_append(name: str, accepted: int) -> None:
    bench, size, count, g = Bench(SETTLED[name], 9), 32, 30, random(11)
    rows = torch.randperm(90, generator=g)[:count].to(DEVICE)
    state = torch.randint(0, 3, (count,), generator=g)  # 1: picked
    state[torch.randperm(count, generator=g)[:21]] = 1
    rank = torch.randint(0, 5, (count,), generator=g)  # with ties
    order = sorted((i for i in range(count) if state[i] == 1), key=lambda i: (-int(rank[i]), int(rows[i])))[:accepted]
    row = torch.full((size,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
    exact = torch.full((size,), torch.nan, dtype=torch.float64, device=DEVICE)
    row[:count], exact[:count] = rows.int(), torch.rand(count, generator=g, dtype=torch.float64).to(DEVICE)
    pairs = torch.full((size * size,), 1, dtype=torch.int32, device=DEVICE)
    ranks = torch.zeros(size * size, dtype=torch.int64, device=DEVICE)
    middle = slice(size * size // 2, size * size // 2 + count)
    pairs[size * size // 2 :], pairs[middle], ranks[middle] = 2, state.int().to(DEVICE), rank.to(DEVICE)
    bench.counters[at.BLOCK] = count
    bench.control[at.ACCEPTED], bench.control[at.COUNT] = accepted, 9 + accepted
    packed, norm, before = bench.packed.clone(), bench.pick_norm.clone(), bench.pick_row[:9].clone()
    chosen = rows[torch.tensor(order, dtype=torch.int64, device=DEVICE)]
    if accepted:
        pack(bench.x, bench.frame, norm, packed, chosen, first=9)
    pick_squared = torch.full_like(bench.pick_row, UNTOUCHED)
    block.append_kernel[(2,)](
        bench.x, *bench.x.stride(), bench.x.shape[1], bench.norm, bench.frame.centre, bench.frame.params, bench.key,
        bench.control, bench.counters, row, exact.view(torch.int64), pairs, ranks, bench.pick_row, pick_squared,
        bench.packed, bench.packed.shape[1], bench.pick_norm, P=size, M=16, N=16, K=16, num_warps=4,
        enable_fp_fusion=True,
    )  # fmt: skip
    assert torch.equal(bench.packed.nan_to_num(-5.0), packed.nan_to_num(-5.0))
    assert torch.equal(bench.pick_norm.nan_to_num(-5.0), norm.nan_to_num(-5.0))
    assert torch.equal(bench.pick_row[:9], before) and torch.equal(bench.pick_row[9:][:accepted], chosen)
    assert bool((bench.pick_row[9 + accepted :] == UNTOUCHED).all())
    assert torch.equal(pick_squared[9:][:accepted].view(torch.float64), exact[order])
    assert bool((pick_squared[:9] == UNTOUCHED).all()) and bool((pick_squared[9 + accepted :] == UNTOUCHED).all())
    assert sorted((bench.key == -1).nonzero()[:, 0].tolist()) == sorted(chosen.tolist())
