"""The rows that a pass looks at, against sorting: the edge, the candidates, the rows to refresh and their order."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from patchcore_fast.kernels.backends.device import layout

LAST_ROW = (1 << 31) - 1
ROOM = 64


def number(name):
    """A number of layout.py, which may hold it as Triton's constant."""
    value = getattr(layout, name)
    return getattr(value, "value", value)


def select(emulated, key, seen, count, wanted, levels, span=256, room=ROOM, eager=False):
    """What the kernels leave behind; what they do not write is poison."""
    rows = key.shape[0]
    control = torch.full((number("CONTROL"),), -99)
    control[number("COUNT")], control[number("WANTED")], control[number("END")] = count, wanted, 1 << 31
    control[number("EDGE")] = control[number("EDGE_ROW")] = 12345  # of the pass before
    counters = torch.zeros(number("HISTOGRAM") + 9 * number("BINS"), dtype=torch.int32)
    ages = torch.full((-(-rows // span), number("AGE_BINS")), -5, dtype=torch.int32)
    candidates, stale = (torch.full((n,), -5, dtype=torch.int32) for n in (room, rows))
    emulated.select(
        key.data_ptr(), seen.data_ptr(), rows, span, control.data_ptr(), counters.data_ptr(), ages.data_ptr(),
        candidates.data_ptr(), room, stale.data_ptr(), eager, levels, 0,
    )  # fmt: skip
    found = int(counters[number("INSIDE")])
    return SimpleNamespace(
        edge=int(control[number("EDGE")]), edge_row=int(control[number("EDGE_ROW")]),
        left=int(control[number("LEFT")]), crowded=int(control[number("CROWDED")]), found=found,
        candidates=candidates[: min(found, room)].tolist(),
        poison=candidates[found:].tolist() + stale[int(counters[number("STALE")]) :].tolist(),
        stale=stale[: int(counters[number("STALE")])].tolist(), ages=ages,
    )  # fmt: skip


def expected(key, seen, count, wanted, levels, eager=False):
    """The same from sorting all rows: larger key first, then lower row."""
    bits = key.numpy().view(np.int64)
    order = sorted(np.flatnonzero(key.numpy() >= 0).tolist(), key=lambda row: (-bits[row], row))
    if len(order) < wanted:
        edge, edge_row = 0, LAST_ROW
    else:
        last = order[wanted - 1]
        # Levels decide bits from above: first of the key, then of the row counted from the end.
        low = number("LEVELS")[min(levels, 6) - 1][0]
        edge = int(bits[last]) >> low << low
        edge_row = LAST_ROW
        if levels > 6:
            low = number("LEVELS")[levels - 1][0]
            edge_row = LAST_ROW - ((LAST_ROW ^ last) >> low << low)
    inside = [row for row in order if bits[row] > edge or (bits[row] == edge and row <= edge_row)]
    seen = seen.tolist()
    fresh = [row for row in inside if seen[row] >= count]
    old = [row for row in (order if eager else inside) if seen[row] < count]
    old.sort(key=lambda row: (seen[row] * 16 // max(count, 1), row))
    return SimpleNamespace(edge=edge, edge_row=edge_row, inside=inside, fresh=sorted(fresh), stale=old)


def compare(emulated, key, seen, count, wanted, levels, span=256, room=ROOM, eager=False):
    found = select(emulated, key, seen, count, wanted, levels, span, room, eager)
    want = expected(key, seen, count, wanted, levels, eager)
    assert (found.edge, found.edge_row) == (want.edge, want.edge_row)
    assert found.stale == want.stale
    assert found.found == len(want.fresh)
    if found.found <= room:
        assert sorted(found.candidates) == want.fresh
    else:
        assert len(set(found.candidates)) == room and set(found.candidates) <= set(want.fresh)
    assert set(found.poison) <= {-5}
    assert int(found.ages.sum()) == len(want.stale) and int(found.ages.min()) >= 0
    return found, want


def case(rows, seed=0, ties=False, picked=0.1, count=40, fresh=0.5):
    """Keys of several sizes, some picked, some zero; picks seen by each row."""
    generator = torch.Generator().manual_seed(seed)
    key = torch.rand(rows, generator=generator, dtype=torch.float64) * 2.0 ** torch.randint(
        -3, 4, (rows,), generator=generator
    )
    if ties:
        key = key.mul(2).round()
    key[torch.rand(rows, generator=generator) < picked] = -1.0
    seen = torch.randint(0, count + 1, (rows,), generator=generator, dtype=torch.int32)
    seen[torch.rand(rows, generator=generator) < fresh] = count
    return key, seen


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("levels", range(1, 10))
@pytest.mark.parametrize("ties", [False, True])
def test_every_level(emulated, ties, levels, eager):
    for rows, wanted in ((1, 1), (300, 20), (2500, 60)):
        key, seen = case(rows, ties=ties, picked=0.1 if rows > 1 else 0)
        found, want = compare(emulated, key, seen, 40, wanted, levels, eager=eager)
        assert len(want.inside) >= min(wanted, rows)
        if levels == 9:
            assert len(want.inside) == wanted and found.left == 1


def test_any_order_of_blocks_and_threads(emulated, every_seed):
    key, seen = case(1800, ties=True)
    for _ in every_seed(6):
        for levels in (2, 9):
            compare(emulated, key, seen, 40, 50, levels)


@pytest.mark.parametrize("span", [1, 31, 256, 300, 1024, 5000])
def test_any_span(emulated, span):
    rows = 40 if span == 1 else 1500
    key, seen = case(rows, seed=span)
    compare(emulated, key, seen, 40, 17, 2, span=span)


def test_fewer_rows_than_wanted(emulated):
    for picked in (0.0, 0.9, 1.0):
        key, seen = case(400, picked=picked)
        found, want = compare(emulated, key, seen, 40, 500, 2)
        assert (found.edge, found.left) == (0, -1) and len(want.inside) == int((key >= 0).sum())
        compare(emulated, key, seen, 40, 500, 9)


def test_exactly_as_many_rows_as_wanted(emulated):
    key, seen = case(400, picked=0.5)
    left = int((key >= 0).sum())
    found, want = compare(emulated, key, seen, 40, left, 9)
    assert len(want.inside) == left and found.left == 1


def test_one_key_for_all_rows(emulated):
    for value in (0.0, 1.0, 5e-324, 1.7e308, float("inf")):
        key = torch.full((1000,), value, dtype=torch.float64)
        seen = torch.full((1000,), 3, dtype=torch.int32)
        _, want = compare(emulated, key, seen, 3, 33, 9)
        assert want.inside == list(range(33))
        compare(emulated, key, seen, 3, 33, 2)


def test_more_candidates_than_there_is_room_for(emulated, every_seed):
    key, seen = case(900, fresh=1.0)
    for _ in every_seed(3):
        found, _ = compare(emulated, key, seen, 40, 200, 9, room=ROOM)
        assert found.found == 200


def test_ages(emulated):
    rows = 3000
    generator = torch.Generator().manual_seed(5)
    key = torch.rand(rows, generator=generator, dtype=torch.float64)
    for count in (1, 2, 15, 16, 17, 1000, (1 << 31) - 1):
        seen = torch.randint(0, count + 1, (rows,), generator=generator, dtype=torch.int64).to(torch.int32)
        compare(emulated, key, seen, count, 2500, 2, eager=True)


def test_without_a_pick(emulated):
    key, seen = case(300)
    found, _ = compare(emulated, key, torch.zeros_like(seen), 0, 20, 2)
    assert found.stale == [] and found.found >= 20


def test_what_is_refused(emulated):
    key, seen = case(10)
    for levels in (0, 10):
        with pytest.raises(ValueError, match="levels must lie in 1"):
            select(emulated, key, seen, 40, 5, levels)
    for arguments, message in (
        ((0, 8, 10, 256, 8, 8, 8, 8, 4, 8), "an address is null"),
        ((8, 8, 0, 256, 8, 8, 8, 8, 4, 8), "too many rows, or none"),
        ((8, 8, (1 << 31) - 9, 256, 8, 8, 8, 8, 4, 8), "too many rows, or none"),
        ((8, 8, 10, 0, 8, 8, 8, 8, 4, 8), "span must be at least 1"),
        ((8, 8, 10, 256, 8, 8, 8, 8, -1, 8), "room must be >= 0"),
        ((4, 8, 10, 256, 8, 8, 8, 8, 4, 8), "not aligned"),
    ):
        with pytest.raises(ValueError, match=message):
            emulated.select(*arguments, False, 2, 0)
