"""The k-center kernels that choose, each by itself: the edge, the lists, the block, and greedy inside it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels.backends.triton_kernels import block, layout, select, settle

from ..kernels.cases import gaussian, integers
from .kcenter_bench import DEVICE, PLAIN_LAUNCH, UNTOUCHED, as_bits, at, keys, random


def cut(key: torch.Tensor, wanted: int, levels: int) -> dict[str, int]:
    """What the levels of the edge write."""
    key, n = key.to(DEVICE), key.shape[0]
    control = torch.full((at.CONTROL,), UNTOUCHED, dtype=torch.int64, device=DEVICE)
    control[at.WANTED] = wanted
    counters = torch.zeros(at.HISTOGRAM + len(layout.LEVELS) * at.BINS, dtype=torch.int32, device=DEVICE)
    for level, (shift, width) in enumerate(layout.LEVELS[:levels]):
        select.edge_kernel[(3,)](
            key, n, control, counters, LEVEL=level, SHIFT=shift, WIDTH=width, OF_ROW=level >= layout.KEY_LEVELS,
            HIGHEST=level in (0, layout.KEY_LEVELS), B=64, **PLAIN_LAUNCH,
        )  # fmt: skip
    return {name: int(control[place]) for name, place in (("edge", at.EDGE), ("row", at.EDGE_ROW), ("left", at.LEFT))}


@pytest.mark.parametrize("name", keys())
def test_edge(name: str) -> None:
    key = keys()[name]
    order = sorted((row for row in range(len(key)) if key[row] >= 0), key=lambda row: (-float(key[row]), row))
    for wanted in (1, 2, 63, 200, 301):
        coarse, exact = cut(key, wanted, layout.COARSE_LEVELS), cut(key, wanted, len(layout.LEVELS))
        if wanted > len(order):
            assert coarse == exact == {"edge": 0, "row": at.LAST_ROW, "left": -1}
            continue
        last = order[wanted - 1]
        bits = int(as_bits(key[last]))
        assert (exact["edge"], exact["row"]) == (bits, last)
        assert (coarse["edge"], coarse["row"]) == (bits >> 41 << 41, at.LAST_ROW)


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
@pytest.mark.parametrize("programs", [1, 3, 4])
def test_count_and_scatter(eager: bool, count: int, programs: int) -> None:
    n, g = 500, random(5)
    key = torch.randint(0, 9, (n,), generator=g).double()
    key[torch.rand(n, generator=g) < 0.2] = -1.0
    seen = torch.randint(0, count + 1, (n,), generator=g, dtype=torch.int32)
    seen[torch.rand(n, generator=g) < 0.3] = count
    control = torch.zeros(at.CONTROL, dtype=torch.int64, device=DEVICE)
    control[at.COUNT], control[at.EDGE], control[at.EDGE_ROW] = count, as_bits(5.0), 250
    row = torch.arange(n)
    inside = (key > 5) | ((key == 5) & (row <= 250))
    stale = (seen < count) & ((key >= 0) if eager else inside)
    for room in (512, 16):
        counters = torch.zeros(at.HISTOGRAM, dtype=torch.int32, device=DEVICE)
        candidates = torch.full((room + 3,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
        listed = torch.full((n,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
        ages = torch.full((programs, at.AGE_BINS), UNTOUCHED, dtype=torch.int32, device=DEVICE)
        span = 64 * -(-n // (64 * programs))
        given = key.to(DEVICE), seen.to(DEVICE), n, span, control, counters, ages
        select.count_kernel[(programs,)](*given, candidates, ROOM=room, EAGER=eager, B=64, **PLAIN_LAUNCH)
        select.scatter_kernel[(programs,)](*given, listed, EAGER=eager, PROGRAMS=4, B=32, **PLAIN_LAUNCH)
        fresh = (inside & (seen >= count)).nonzero()[:, 0].tolist()
        assert int(counters[at.INSIDE]) == len(fresh) and int(counters[at.STALE]) == int(stale.sum())
        found = candidates[: min(len(fresh), room)].tolist()
        assert len(set(found)) == len(found) and set(found) <= set(fresh) and (room < 512 or sorted(found) == fresh)
        assert bool((candidates[min(len(fresh), room) :] == UNTOUCHED).all())
        total = int(stale.sum())
        assert sorted(listed[:total].tolist()) == stale.nonzero()[:, 0].tolist()
        assert bool((listed[total:] == UNTOUCHED).all())
        # Most to catch up on first, and in order within an age: the same list however programs take turns.
        found_ages = seen[listed[:total].long().cpu()].long() * at.AGE_BINS // max(count, 1)
        ranked = sorted(listed[:total].tolist(), key=lambda row: (int(seen[row]) * at.AGE_BINS // max(count, 1), row))
        assert listed[:total].tolist() == ranked and bool((found_ages.diff() >= 0).all())


def trim(
    exact: torch.Tensor, rows: torch.Tensor, n: int, weight: torch.Tensor | None, room: int, size: int, found: int
):
    """key, control, and the block's rows, distances and weights, of one launch."""
    control = torch.full((at.CONTROL,), UNTOUCHED, dtype=torch.int64, device=DEVICE)
    control[at.WANTED] = 40
    counters = torch.zeros(at.HISTOGRAM, dtype=torch.int32, device=DEVICE)
    counters[at.INSIDE] = found
    key = torch.full((n,), torch.nan, dtype=torch.float64, device=DEVICE)
    candidates = torch.full((room,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
    settled = torch.full((room,), torch.nan, dtype=torch.float64, device=DEVICE)
    candidates[: len(rows)], settled[: len(rows)] = rows.to(DEVICE, torch.int32), exact.to(DEVICE)
    block_row = torch.full((size,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
    block_exact, block_weight = (torch.full((size,), torch.nan, dtype=torch.float64, device=DEVICE) for _ in range(2))
    settle.trim_kernel[(1,)](
        key, key if weight is None else weight.to(DEVICE), n, control, counters, candidates, settled, block_row,
        block_exact, block_weight, 20, ROOM=room, WEIGHTED=weight is not None, P=size, **PLAIN_LAUNCH,
    )  # fmt: skip
    taken = int(counters[at.BLOCK])
    assert bool((block_row[taken:] == UNTOUCHED).all()) and bool(block_exact[taken:].isnan().all())
    return key.cpu(), control.cpu(), block_row[:taken].cpu(), block_exact[:taken].cpu(), block_weight[:taken].cpu()


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", [name for name in keys() if "picked" not in name])
def test_trim(name: str, weighted: bool) -> None:
    n, room, size = 320, 128, 32
    everything = keys()[name]
    rows = torch.randperm(n, generator=random(7))[: len(everything)]
    for found in sorted({min(len(rows), f) for f in (1, 20, 32, 33, 100, 128)}):
        exact, mine = everything[:found], rows[:found]
        weight = None
        key = exact
        if weighted:
            weight = torch.randint(0, 3, (n,), generator=random(8)).double()
            key = torch.where(weight[mine] > 0, weight[mine] * exact, 0.0)
        left, control, block_row, block_exact, block_weight = trim(exact, mine, n, weight, room, size, found)
        order = sorted(range(found), key=lambda i: (-float(key[i]), int(mine[i])))
        taken = len(block_row)
        assert taken == found if found <= size else 3 * size // 4 <= taken <= size
        first = order[:taken]  # the block is the head of the ranking, in any order
        assert sorted(block_row.tolist()) == sorted(mine[first].tolist())
        place = {int(row): i for i, row in enumerate(mine)}
        source = torch.tensor([place[int(row)] for row in block_row])
        assert torch.equal(block_exact, exact[source])
        expected = torch.ones(taken, dtype=torch.float64) if weight is None else weight[block_row.long()]
        assert torch.equal(block_weight, expected)
        if taken < found:
            best = order[taken]
            assert (int(control[at.BEST]), int(control[at.BEST_ROW])) == (int(as_bits(key[best])), int(mine[best]))
        else:
            assert int(control[at.BEST]) == -1
        expected = torch.full((n,), torch.nan, dtype=torch.float64)
        expected[mine] = key
        assert torch.equal(left.nan_to_num(-5.0), expected.nan_to_num(-5.0))
        assert int(control[at.FOUND]) == found
        assert int(control[at.WANTED]) == min(max((40 + 40 * 20 // found) // 2, 20), n)


def test_trim_beyond_the_room_and_of_nothing() -> None:
    for found, wanted in ((129, 23), (0, 160)):
        key, control, block_row, _, _ = trim(torch.ones(128), torch.arange(128), 320, None, 128, 32, found)
        assert bool(key.isnan().all()) and len(block_row) == 0
        assert (int(control[at.FOUND]), int(control[at.BEST]), int(control[at.WANTED])) == (found, -1, wanted)


LIMITS = {  # edge, its row, best key outside, its row, picks that may be made
    "nothing outside": (0.0, at.LAST_ROW, None, 0, 32),
    "quota": (0.0, at.LAST_ROW, None, 0, 3),
    "no quota": (0.0, at.LAST_ROW, None, 0, 0),
    "edge": (1.2, 40, None, 0, 32),
    "outside": (0.0, at.LAST_ROW, 1.5, 45, 32),
    "outside first": (0.0, at.LAST_ROW, torch.inf, 0, 32),
    "both": (1.0, at.LAST_ROW, 1.0, 50, 32),
}


@pytest.mark.parametrize("kind", ["gaussian", "integers", "infinite", "weighted", "no weight"])
@pytest.mark.parametrize("limit", LIMITS)
def test_resolve(limit: str, kind: str) -> None:
    edge, edge_row, best, best_row, quota = LIMITS[limit]
    size, count, before, g = 32, 21, 4, random(10)
    x = integers(count, 2) / 4 if kind == "integers" else gaussian(count, 2)
    between = (x[:, None].double() - x.double()).square().sum(2)
    exact = torch.full((count,), torch.inf).double() if kind == "infinite" else between.median(1).values
    weight = torch.ones(count, dtype=torch.float64)
    if "weight" in kind:
        weight = torch.randint(0, 4, (count,), generator=g).double() * (kind == "weighted")
    rows = torch.randperm(100, generator=g)[:count]
    control = torch.full((at.CONTROL + 2 * size,), UNTOUCHED, dtype=torch.int64, device=DEVICE)
    control[at.COUNT], control[at.END] = before, before + quota
    control[at.EDGE], control[at.EDGE_ROW] = as_bits(edge), edge_row
    control[at.BEST], control[at.BEST_ROW] = -1 if best is None else as_bits(best), best_row
    counters = torch.zeros(at.HISTOGRAM, dtype=torch.int32, device=DEVICE)
    counters[at.BLOCK] = count
    key = torch.full((100,), 5.0, dtype=torch.float64, device=DEVICE)
    squared = torch.full((size, size), torch.nan, dtype=torch.float64)
    squared[:count, :count] = between
    block_row = torch.full((size,), UNTOUCHED, dtype=torch.int32)
    block_exact, block_weight = (torch.full((size,), torch.nan, dtype=torch.float64) for _ in range(2))
    block_row[:count], block_exact[:count], block_weight[:count] = rows.int(), exact, weight
    pick_row = torch.full((before + size,), UNTOUCHED, dtype=torch.int64, device=DEVICE)
    block.resolve_kernel[(1,)](
        key, control, counters, block_row.to(DEVICE), block_exact.view(torch.int64).to(DEVICE), block_weight.to(DEVICE),
        squared.view(torch.int64).to(DEVICE), pick_row, WEIGHTED="weight" in kind, P=size,
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip

    picked: list[int] = []
    distance, left = exact.clone(), []
    while len(picked) < quota:
        ranked = [(float(weight[i] * distance[i]) if weight[i] > 0 else 0.0, -int(rows[i]), i) for i in range(count)]
        ranked = [r for r in ranked if r[2] not in picked]
        if not ranked:
            break
        most, minus_row, i = max(ranked)
        if (most, minus_row) < (edge, -edge_row) or (best is not None and (most, minus_row) < (best, -best_row)):
            break
        picked.append(i)
        left.append(float(distance[i]))
        distance = torch.minimum(distance, between[i])
    if limit == "nothing outside":
        assert len(picked) == count
    number = len(picked)
    assert int(control[at.ACCEPTED]) == number and int(control[at.COUNT]) == before + number
    assert pick_row.tolist() == [UNTOUCHED] * before + rows[picked].tolist() + [UNTOUCHED] * (size - number)
    assert control[at.CONTROL :][:number].tolist() == rows[picked].tolist()
    assert control[at.CONTROL + size :][:number].view(torch.float64).tolist() == left
    expected = torch.full((100,), 5.0, dtype=torch.float64)
    expected[rows[picked]] = -1.0
    assert torch.equal(key.cpu(), expected)
