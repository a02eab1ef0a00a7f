"""The k-center kernels that choose, each by itself: the edge, the lists, the block, and greedy inside it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels.backends.triton_kernels import block, layout, narrow, select, settle
from patchcore_fast.kernels.backends.triton_kernels.frame import choose_frame
from patchcore_fast.kernels.backends.triton_kernels.precision import Arithmetic

from ..kernels.cases import gaussian, integers
from .kcenter_bench import DEVICE, PLAIN_LAUNCH, UNTOUCHED, as_bits, at, keys, random


def cut(key: torch.Tensor, wanted: int, levels: int, own: bool) -> dict[str, int]:
    """What the levels of the edge write."""
    key, n = key.to(DEVICE), key.shape[0]
    control = torch.full((at.CONTROL,), UNTOUCHED, dtype=torch.int64, device=DEVICE)
    control[at.WANTED], control[at.COUNT], control[at.END] = wanted, 0, 1
    counters = torch.zeros(at.HISTOGRAM + len(layout.LEVELS) * at.BINS, dtype=torch.int32, device=DEVICE)
    bins = torch.full((3, at.BINS), UNTOUCHED, dtype=torch.int32, device=DEVICE)
    for level, (shift, width) in enumerate(layout.LEVELS[:levels]):
        select.edge_kernel[(3,)](
            key, n, control, counters, bins, LEVEL=level, SHIFT=shift, WIDTH=width, OF_ROW=level >= layout.KEY_LEVELS,
            HIGHEST=level in (0, layout.KEY_LEVELS), OWN=own, B=64, **PLAIN_LAUNCH,
        )  # fmt: skip
    places = {"edge": at.EDGE, "row": at.EDGE_ROW, "left": at.LEFT, "crowded": at.CROWDED}
    return {name: int(control[place]) for name, place in places.items()}


@pytest.mark.parametrize("own", [False, True], ids=["histogram", "own bins"])
@pytest.mark.parametrize("name", keys())
def test_edge(name: str, own: bool) -> None:
    key = keys()[name]
    order = sorted((row for row in range(len(key)) if key[row] >= 0), key=lambda row: (-float(key[row]), row))
    for wanted in (1, 2, 63, 200, 301):
        coarse, exact = (cut(key, wanted, levels, own) for levels in (at.COARSE_LEVELS, len(layout.LEVELS)))
        if wanted > len(order):
            assert coarse == exact == {"edge": 0, "row": at.LAST_ROW, "left": -1, "crowded": 0}
            continue
        last = order[wanted - 1]
        bits = int(as_bits(key[last]))
        assert (exact["edge"], exact["row"]) == (bits, last)
        assert (coarse["edge"], coarse["row"]) == (bits >> 41 << 41, at.LAST_ROW)
        let_in = sum(int(as_bits(key[row])) >= coarse["edge"] for row in order)
        assert coarse["crowded"] == exact["crowded"] == (let_in > 2 * wanted)


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
    control[at.END] = count + 1
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
        select.count_kernel[(programs,)](*given, candidates, LIST=room, EAGER=eager, B=64, **PLAIN_LAUNCH)
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
    control[at.WANTED], control[at.FOUND] = 40, found
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
        assert int(control[at.WANTED]) == min(max((40 + 40 * 20 // found) // 2, 20), n)


def test_trim_of_nothing() -> None:
    key, control, block_row, _, _ = trim(torch.ones(128), torch.arange(128), 320, None, 128, 32, 0)
    assert bool(key.isnan().all()) and len(block_row) == 0
    assert (int(control[at.BEST]), int(control[at.WANTED])) == (-1, 160)


@pytest.mark.parametrize("name", [name for name in keys() if "picked" not in name])
def test_narrow(name: str) -> None:
    key, room, most = keys()[name], 32, 128
    rows = torch.randperm(320, generator=random(7))[: len(key)]
    for found in sorted({min(len(rows), f) for f in (1, 32, 33, 64, 100, 128)} | {0, 129}):
        mine, edge = rows[:found], int(as_bits(key[:found].min())) if 0 < found <= most else 7
        control = torch.full((at.CONTROL,), UNTOUCHED, dtype=torch.int64, device=DEVICE)
        control[at.EDGE], control[at.EDGE_ROW] = edge, at.LAST_ROW
        counters = torch.zeros(at.HISTOGRAM, dtype=torch.int32, device=DEVICE)
        counters[at.INSIDE] = found
        whole = torch.full((320,), torch.nan, dtype=torch.float64, device=DEVICE)
        whole[rows] = key.to(DEVICE)
        candidates = torch.full((most + 3,), UNTOUCHED, dtype=torch.int32, device=DEVICE)
        candidates[: min(found, most)] = mine[:most].to(DEVICE, torch.int32)
        narrow.narrow_kernel[(1,)](whole, control, counters, candidates, LIST=most, ROOM=room, B=64, **PLAIN_LAUNCH)
        assert int(control[at.FOUND]) == found and bool((candidates[most:] == UNTOUCHED).all())
        kept = int(counters[at.INSIDE])
        if found <= room or found > most:
            assert kept == (found if found <= room else 0)
            assert (int(control[at.EDGE]), int(control[at.EDGE_ROW])) == (edge, at.LAST_ROW)
            continue
        # The head of the ranking, in any order, and an edge that just these reach.
        bits = as_bits(key[:found]).tolist()
        order = sorted(range(found), key=lambda i: (-bits[i], int(mine[i])))
        assert room // 2 <= kept <= room
        assert sorted(candidates[:kept].tolist()) == sorted(mine[order[:kept]].tolist())
        last = int(control[at.EDGE]), -int(control[at.EDGE_ROW])
        assert [i for i in order if (bits[i], -int(mine[i])) >= last] == order[:kept]


LIMITS = {  # edge, its row, best key outside, its row, picks that may be made
    "nothing outside": (0.0, at.LAST_ROW, None, 0, 32),
    "quota": (0.0, at.LAST_ROW, None, 0, 3),
    "no quota": (0.0, at.LAST_ROW, None, 0, 0),
    "edge": (1.2, 40, None, 0, 32),
    "outside": (0.0, at.LAST_ROW, 1.5, 45, 32),
    "outside first": (0.0, at.LAST_ROW, torch.inf, 0, 32),
    "both": (1.0, at.LAST_ROW, 1.0, 50, 32),
}


class Block:
    """A block of rows, and what is outside; the kernels that pick run over it."""

    def __init__(self, rows: torch.Tensor, exact: torch.Tensor, weight: torch.Tensor | None, size: int) -> None:
        self.rows, self.exact, self.size, self.weighted = rows, exact, size, weight is not None
        self.weight = torch.ones(len(rows), dtype=torch.float64) if weight is None else weight

    def picked(
        self, between: torch.Tensor, listed: torch.Tensor, limit: str, step: int = 512
    ) -> tuple[list[int], list[float]]:
        """Rows and squared distances that resolve and append leave; what else they write is looked at here.

        between [R, R] : squared distances. listed [R, R] bool: the pairs i < j that are known to the kernels.
        """
        edge, edge_row, best, best_row, quota = LIMITS[limit]
        size, count, before = self.size, len(self.rows), 4
        x = gaussian(100, 3).to(DEVICE)
        control = torch.full((at.CONTROL,), UNTOUCHED, dtype=torch.int64, device=DEVICE)
        control[at.COUNT], control[at.END], control[at.PASSES] = before, before + quota, 6
        control[at.EDGE], control[at.EDGE_ROW] = as_bits(edge), edge_row
        control[at.BEST], control[at.BEST_ROW] = -1 if best is None else as_bits(best), best_row
        control[at.ACCEPTED] = 7  # of the pass before
        counters = torch.zeros(at.HISTOGRAM, dtype=torch.int32, device=DEVICE)
        i, j = listed.nonzero(as_tuple=True)
        counters[at.BLOCK], counters[at.PAIRS] = count, len(i)
        pairs = torch.full((size * size,), UNTOUCHED, dtype=torch.int32)
        squared = torch.full((size * size,), torch.nan, dtype=torch.float64)
        pairs[: len(i)], squared[: len(i)] = (i * size + j).int(), between[i, j]
        row = torch.full((size,), UNTOUCHED, dtype=torch.int32)
        exact, weight = (torch.full((size,), torch.nan, dtype=torch.float64) for _ in range(2))
        row[:count], exact[:count], weight[:count] = self.rows.int(), self.exact, self.weight
        row, exact, weight, pairs, squared = (t.to(DEVICE) for t in (row, exact, weight, pairs, squared))
        bits = exact.view(torch.int64), pairs, squared.view(torch.int64)
        block.resolve_kernel[(1,)](
            control, counters, row, bits[0], weight, *bits[1:], WEIGHTED=self.weighted, P=size, B=step, num_warps=16,
            enable_fp_fusion=False,
        )  # fmt: skip
        number = int(control[at.COUNT]) - before
        assert int(control[at.ACCEPTED]) == (number if quota else 7) and int(control[at.PASSES]) == 6 + (quota > 0)
        key = torch.full((100,), 5.0, dtype=torch.float64, device=DEVICE)
        pick_row, pick_bits = (
            torch.full((before + size,), UNTOUCHED, dtype=torch.int64, device=DEVICE) for _ in range(2)
        )
        picks, norms = torch.full((before + size, 16), torch.nan, device=DEVICE), x.square().sum(1)
        pick_norm = torch.full((before + size,), torch.nan, device=DEVICE)
        frame = choose_frame("test", Arithmetic("ieee"), True, features=x)
        block.append_kernel[(-(-size // 16),)](
            x, *x.stride(), 3, norms, frame.centre, frame.params, key, control, counters, row, *bits, pick_row,
            pick_bits, picks, 16, pick_norm, P=size, M=16, N=16, K=16, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        written = slice(before, before + number)
        for array in (pick_row, pick_bits):
            assert bool((array[:before] == UNTOUCHED).all() and (array[before + number :] == UNTOUCHED).all())
        found = pick_row[written]
        assert torch.equal(picks[written, :3], x[found]) and bool((picks[written, 3:] == 0).all())
        assert torch.equal(pick_norm[written], norms[found])
        assert bool(picks[:before].isnan().all()) and bool(picks[before + number :].isnan().all())
        left = torch.full((100,), 5.0, dtype=torch.float64, device=DEVICE)
        left[found] = -1.0
        assert torch.equal(key, left)
        return found.tolist(), pick_bits[written].view(torch.float64).tolist()

    def expected(self, between: torch.Tensor, limit: str) -> tuple[list[int], list[float]]:
        """The plain algorithm: one pick after the other."""
        edge, edge_row, best, best_row, quota = LIMITS[limit]
        picked: list[int] = []
        distance, left = self.exact.clone(), []
        while len(picked) < quota:
            ranked = [
                (float(self.weight[i] * distance[i]) if self.weight[i] > 0 else 0.0, -int(self.rows[i]), i)
                for i in range(len(self.rows))
                if i not in picked
            ]
            if not ranked:
                break
            most, minus_row, i = max(ranked)
            if (most, minus_row) < (edge, -edge_row) or (best is not None and (most, minus_row) < (best, -best_row)):
                break
            picked.append(i)
            left.append(float(distance[i]))
            distance = torch.minimum(distance, between[i])
        return self.rows[picked].tolist(), left


@pytest.mark.parametrize("kind", ["gaussian", "integers", "infinite", "weighted", "no weight"])
@pytest.mark.parametrize("limit", LIMITS)
def test_resolve(limit: str, kind: str) -> None:
    count, g = 21, random(10)
    x = integers(count, 2) / 4 if kind == "integers" else gaussian(count, 2)
    between = (x[:, None].double() - x.double()).square().sum(2)
    exact = torch.full((count,), torch.inf).double() if kind == "infinite" else between.median(1).values
    weight = torch.randint(0, 4, (count,), generator=g).double() * (kind == "weighted") if "weight" in kind else None
    mine = Block(torch.randperm(100, generator=g)[:count], exact, weight, 32)
    listed = (between <= torch.maximum(exact[:, None], exact)).triu(1)
    expected = mine.expected(between, limit)
    assert mine.picked(between, listed, limit) == expected
    if limit == "nothing outside":
        assert len(expected[0]) == count


SIZES, DENSITIES = ((16, 16), (32, 17), (64, 64)), (0.0, 0.05, 0.3, 1.0)
GRAPHS = [pytest.param(*size, density, kind, marks=[pytest.mark.thorough] * (size[0] == 64 or (i + j + k) % 2))
          for i, size in enumerate(SIZES) for j, density in enumerate(DENSITIES)
          for k, kind in enumerate(("levels", "distinct", "weighted"))]  # fmt: skip


@pytest.mark.parametrize("size, count, density, kind", GRAPHS)
def test_resolve_random_graphs(size: int, count: int, density: float, kind: str) -> None:
    """Distances that are those of no space: chains of rows that wait for each other, ties, and many rounds."""
    for seed in range(3):
        g = random(seed)
        between = torch.rand(count, count, generator=g, dtype=torch.float64) * 2
        exact = 1 + torch.rand(count, generator=g, dtype=torch.float64)
        if kind != "distinct":
            between, exact = (between * 4).round() / 4, (exact * 4).round() / 4
        listed = (torch.rand(count, count, generator=g) < density).triu(1)
        between = torch.where(listed, between, torch.inf)
        between = torch.minimum(between, between.T)
        weight = torch.randint(0, 4, (count,), generator=g).double() if kind == "weighted" else None
        mine = Block(torch.randperm(100, generator=g)[:count], exact, weight, size)
        for limit in ("nothing outside", "quota", "both"):
            assert mine.picked(between, listed, limit, step=16) == mine.expected(between, limit)


def test_resolve_a_chain() -> None:
    """Every row waits for the one before it, so that a round decides one row, at times none of them a pick."""
    count = 32
    exact = torch.arange(2 * count, count, -1).double()
    between = torch.full((count, count), torch.inf).double()
    place = torch.arange(count - 1)
    between[place, place + 1] = exact[1:] - 0.5
    between = torch.minimum(between, between.T)
    mine = Block(torch.arange(count), exact, None, 32)
    found = mine.picked(between, between.isfinite().triu(1), "nothing outside", step=16)
    assert found == mine.expected(between, "nothing outside") and len(found[0]) == count
