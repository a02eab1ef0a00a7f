"""The kernels of a k-center pass, on buffers of this test's own: what they leave behind, against float64."""

import pytest
import torch

from patchcore_fast.kernels.backends.cuda_kernels.frame import pack
from patchcore_fast.kernels.backends.device.layout import COUNT, EDGE, EDGE_ROW, INSIDE, LEVELS, STALE
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference

from ..kernels.cases import awkward, gaussian, integers
from .addresses import laid_out, rows
from .kcenter_buffers import Run, check_refreshed, distances

MODES = ("ffma", "ieee", "tf32x3")
# The difference form, by name only, has the tile of "ieee": most of its grid is for -m thorough.
MOSTLY = (pytest.param("ffma", marks=pytest.mark.thorough), "ieee", "tf32x3")


@pytest.mark.parametrize("mode", MOSTLY)
@pytest.mark.parametrize("name", awkward())
def test_rows_meet_picks(emulated, name, mode):
    x = awkward()[name][:140]
    given = [0, min(7, x.shape[0] - 1), x.shape[0] // 2]
    run = Run(emulated, x, given, 4, mode)
    run.refresh_all()
    check_refreshed(run, given)


TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDE = [pytest.param(dtype, dim, marks=[pytest.mark.thorough] * (dim == 1536 and dtype != torch.float32))
        for dtype in TYPES for dim in (1, 3, 17, 128, 130, 1536)]  # fmt: skip


@pytest.mark.parametrize("mode", MOSTLY)
@pytest.mark.parametrize("dtype, dim", WIDE, ids=str)
def test_types_and_widths(emulated, dtype, dim, mode):
    x = (gaussian(133, dim) + 2).to(dtype)  # more rows than a tile has, fewer than two tiles
    given = list(range(0, 130, 2))  # more picks than a tile has
    run = Run(emulated, x, given, 1, mode)
    run.refresh_all()
    check_refreshed(run, given)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_layouts(emulated, dtype, layout, mode):
    run = Run(emulated, laid_out(gaussian(50, 24).to(dtype))[layout], [3, 20, 49], 1, mode)
    run.refresh_all()
    check_refreshed(run, [3, 20, 49])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["gaussian", "duplicates", "float16", "off-centre"])
def test_parts_of_a_pass_for_picks_that_lie_elsewhere(emulated, name, mode):
    """As for a rank: rows that are listed meet the picks, and some are settled, twice."""
    x = awkward()[name][:90] if name != "off-centre" else gaussian(90, 20) + 50
    n, given = len(x), [3, 50, 7, 88]
    run = Run(emulated, x, given, 1, mode)
    elsewhere = torch.cat([x[given], x[:1]]).t().contiguous().t()  # copies, column by column
    run.pick_row[: len(given)] = torch.arange(len(given))
    told = emulated.KCenterPass(**{**run.fields, "picked_from": rows(elsewhere)})
    run.control[EDGE], run.control[EDGE_ROW] = (1 << 63) - 1, 0
    run.counters.zero_()
    run.stale[:n], run.counters[STALE] = torch.randperm(n).int(), n
    emulated.kcenter_refresh_listed(told, -1, 0)
    run.check_guards()
    check_refreshed(run, given)
    wanted = distances(x, given).min(1).values
    for some in (torch.arange(0, n, 2), torch.arange(1, n, 3)):
        run.counters.zero_()
        run.candidates[: len(some)], run.counters[INSIDE] = some.int(), len(some)
        emulated.kcenter_settle_listed(told, -1, 0)
        run.check_guards()
        assert torch.equal(run.settled[: len(some)], wanted[some])


@pytest.mark.parametrize("arch", ["75", "80"])
@pytest.mark.parametrize("n", [1, 127, 128, 129, 400, 700, 1100])
def test_tiles_whole_and_in_pieces(emulated, n, arch, monkeypatch):
    # With 16 parts, up to 8 tiles are cut into pieces: 700 rows are 6 tiles of 2 pieces, 1,100 are 9 whole ones.
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", arch)
    x = gaussian(n, 20)
    given = [9 * i % n for i in range(min(n, 390 if n < 700 else 150))]
    for values in (x, x.half()):
        run = Run(emulated, values, given, 0)
        run.refresh_all()
        check_refreshed(run, given)


def test_the_difference_form_does_not_see_the_origin(emulated):
    # The expanded form would lose all digits: the rows differ by 1e-4 of their size, and then squared.
    x = gaussian(140, 40) + 1e4
    run = Run(emulated, x, [0, 60, 139], 1)
    run.refresh_all()
    key = check_refreshed(run, [0, 60, 139])
    true = distances(x, [0, 60, 139]).min(1).values
    unpicked = run.key >= 0
    assert float(((key - true) / true)[unpicked].max()) < 3 * (40 + 16) * 2**-24


@pytest.mark.parametrize("mode", MODES)
def test_the_bound_is_no_more_than_is_needed_by_orders(emulated, mode):
    # Values of one sign and size: every rounding and every cut counts, in one direction where it is a cut.
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(130, 512, generator=generator) + 1
    x[::2] = -x[::2]
    run = Run(emulated, x, [0, 1], 1, mode)
    run.refresh_all()
    check_refreshed(run, [0, 1])
    true = distances(x, [0, 1]).min(1).values
    size = true + run.norm.double()
    off = float(((run.value.double() - true).abs() / size)[2:].max())
    assert 2**-26 < off < 512 * 2**-24


def test_starting_distances_and_weights(emulated):
    x, generator = gaussian(140, 9), torch.Generator().manual_seed(1)
    weights = torch.rand(140, generator=generator)
    weights[::5] = 0
    initial = torch.rand(140, generator=generator, dtype=torch.float64) * 20
    initial[3:9] = torch.inf
    run = Run(emulated, x, [0, 60], 1, weights=weights, initial=initial)
    run.refresh_all()
    key = check_refreshed(run, [0, 60], initial)
    others = (run.weight > 0) & (run.key >= 0)
    assert bool((key <= initial * (1 + 2**-51))[others].all())
    assert bool((run.key[run.weight == 0] <= 0).all())


def lines(n, lengths, seed):
    """Rows on a few lines, in clusters of equal and nearly equal rows: many pairs of a block are near."""
    generator = torch.Generator().manual_seed(seed)
    where = (
        torch.randint(0, 6, (n, 1), generator=generator) + torch.randint(0, lengths, (n, 1), generator=generator) / 64
    )
    return torch.cat([where, torch.zeros(n, 2)], 1)


PASSES = {
    "gaussian": lambda: gaussian(260, 6),
    "half": lambda: gaussian(260, 40).half(),
    "ties": lambda: integers(260, 2),
    "lines": lambda: lines(260, 40, 0) * 1.1,
    "clusters": lambda: gaussian(13, 5).repeat(20, 1) + 1e-3 * gaussian(260, 5, 1),
    "duplicates": lambda: gaussian(90, 5).repeat(3, 1),
    "far": lambda: gaussian(260, 12).double() + 1e6,
}


USUAL = ((64, "tf32x3"), (1024, "ieee"))
BLOCKS = [pytest.param(block, mode, marks=[pytest.mark.thorough] * ((block, mode) not in USUAL))
          for block in (16, 64, 1024) for mode in MODES]  # fmt: skip


@pytest.mark.parametrize("block, mode", BLOCKS)
@pytest.mark.parametrize("name", PASSES)
def test_passes_pick_what_greedy_picks(emulated, name, block, mode):
    x, k = PASSES[name](), 40
    picks, radii = k_center_greedy_reference(x, k)
    run = Run(emulated, x, [int(picks[0])], k - 1, mode, block=block, room=min(8 * block, 4096))
    run.refresh_all()
    found, squared = [], []
    for _ in range(200):
        if len(found) == k - 1:
            break
        more = run.one_pass(len(LEVELS) if len(found) % 2 else 2)
        found, squared = found + more[0], squared + more[1]
    assert found == picks[1:].tolist()
    assert torch.equal(torch.tensor(squared, dtype=torch.float64).sqrt().float(), radii[1:])
    assert run.pick_row.tolist() == picks.tolist()
    framed = torch.zeros_like(run.picks)
    pack(x, run.frame, torch.empty(k), framed, picks)
    assert torch.equal(run.picks, framed) and torch.equal(run.pick_norm, run.norm[picks])


@pytest.mark.parametrize("seed", range(12))
def test_passes_with_weights(emulated, seed):
    # All rows are in the block, so rows that sink below others by weight still come up.
    generator = torch.Generator().manual_seed(seed)
    x, weights = gaussian(60, 2, seed), torch.rand(60, generator=generator) ** 3
    weights[::9] = 0
    picks, _ = k_center_greedy_reference(x, 60, weights=weights)
    run = Run(emulated, x, [int(picks[0])], 59, block=64, weights=weights)
    run.refresh_all()
    found = []
    for _ in range(60):
        found += run.one_pass()[0]
    assert found == picks[1:].tolist()


@pytest.mark.parametrize("arch", ["75", "80"])
def test_the_order_of_threads_does_not_reach_the_picks(emulated, every_seed, arch, monkeypatch):
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", arch)
    found = set()
    for _ in every_seed(6):
        run = Run(emulated, lines(200, 40, 3) * 1.1, [0], 150, block=64)
        run.refresh_all()
        found.add(str([run.one_pass() for _ in range(6)]))
    assert len(found) == 1


def test_a_pass_takes_no_more_than_is_asked_for(emulated):
    x = gaussian(200, 8)
    picks, _ = k_center_greedy_reference(x, 3)
    run = Run(emulated, x, [int(picks[0])], 2, block=64)
    run.refresh_all()
    found = []
    while len(found) < 2:
        found += run.one_pass()[0]
    assert found == picks[1:].tolist() and int(run.control[COUNT]) == 3
    assert run.one_pass() == ([], [])


@pytest.mark.parametrize("eager", [False, True])
def test_rows_that_cannot_be_candidates_are_left_alone(emulated, eager):
    x = torch.cat([gaussian(200, 8) * 0.01, gaussian(60, 8) * 10])
    run = Run(emulated, x, [0], 50, block=16, target=8, eager=eager)
    run.refresh_all()
    for _ in range(3):
        run.one_pass()
    near_the_first = run.seen[:200]
    assert bool((near_the_first[1:] > 1).all() if eager else (near_the_first == 1).all())


@pytest.mark.parametrize("card, code", [("75", "75"), ("90", "75")])
def test_without_tf32_it_is_refused(emulated, card, code, monkeypatch):
    run = Run(emulated, gaussian(70, 8), [0], 3, "tf32x3")
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", card)
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_CODE", code)  # PTX of 7.5, on a later card
    for enqueue in (run.refresh_all, run.one_pass):
        with pytest.raises(RuntimeError, match=r"801 .* in update_kernel"):
            enqueue()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mode": "tf32"}, "mode must be ffma, ieee, tf32x3 or, for float16 and bfloat16 rows, half, got tf32"),
        ({"mode": "half"}, "for float16 and bfloat16 rows, half, got half"), ({"block": 24}, "power of two"),
        ({"block": 8}, "block must lie in 16..1024"), ({"room": 100}, "multiple of 64"),
        ({"room": 8192}, "room must lie in"), ({"target": 0}, "target must lie in"),
        ({"parts": 3}, "parts must lie in"), ({"span": 7}, "span"), ({"pitch": 24}, "pitch must be"),
        ({"capacity": 1000}, "more picks than rows"), ({"key": (0, "float64", 70)}, "an address is null"),
        ({"value": (2, "float32", 70)}, "not aligned"),
        ({"picks": (4, "float32", 64)}, "picks must be 16-byte aligned"),
        ({"key": (8, "float32", 70)}, "key must be float64, got float32"),
        ({"pairs": (8, "int64", 256)}, "pairs must be int32, got int64"),
        ({"pairs": (8, "int32", 255)}, "pairs must have at least 256 elements, got 255"),
        ({"control": (8, "int64", 15)}, "control must have at least 16 elements, got 15"),
        ({"picked_from": rows(gaussian(70, 7))}, "picked_from must have the columns and the type of x"),
        ({"picked_from": rows(gaussian(70, 8).half())}, "picked_from must have the columns and the type of x"),
        ({"picked_from": rows(gaussian(3, 8))}, "more picks than rows"),
        ({"more": 1}, "arguments that it does not know"),
    ],
)  # fmt: skip
def test_fields_are_checked(emulated, change, message):
    run = Run(emulated, gaussian(70, 8), [0], 3)
    with pytest.raises(ValueError, match=message):
        emulated.KCenterPass(**{**run.fields, **change})
    with pytest.raises(ValueError, match="no second"):
        emulated.KCenterPass(**{name: value for name, value in run.fields.items() if name != "second"})
    with pytest.raises(ValueError, match="levels must lie in"):
        emulated.kcenter_pass(run.told, 10, -1, 0)
