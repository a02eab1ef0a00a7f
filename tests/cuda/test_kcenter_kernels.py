"""The kernels of a k-center pass, on buffers of this test's own: what they leave behind, against float64.

The arrays lie between guards, since the emulator watches shared memory only: what a kernel writes beside its array is
found here.
"""

import pytest
import torch

from patchcore_fast.kernels.backends.cuda_kernels.frame import choose_frame, pack
from patchcore_fast.kernels.backends.device.layout import (
    ACCEPTED,
    CONTROL,
    COUNT,
    COUNTERS,
    DISTANCES,
    EDGE,
    EDGE_ROW,
    END,
    LEVELS,
    WANTED,
)
from patchcore_fast.kernels.backends.device.precision import Arithmetic
from patchcore_fast.kernels.exact import squared_distance, squared_weights
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference

from ..kernels.cases import awkward, gaussian, integers
from .addresses import laid_out, rows

MODES = ("ffma", "tf32x3")
GUARD = 64  # elements on either side
PROCESSORS = 2


class Run:
    """The buffers of a run, and what its kernels are given. Picks given are in place; nothing has met them."""

    def __init__(self, library, x, given, k, mode="ffma", block=16, room=None, target=None, weights=None, initial=None,
                 eager=False):  # fmt: skip
        n, dim = x.shape
        self.library, self.x, self.block = library, x, block
        self.frame = choose_frame("test", Arithmetic(mode), True, features=x)
        capacity, room = len(given) + k, room or 8 * block
        sizes = library.kcenter_sizes(n, PROCESSORS)
        parts, tile, span = sizes["parts"], sizes["tile_rows"], sizes["span"]
        params = self.frame.params
        self.tracked = bool(params[1] > 0)
        plain = bool(params[0] * params[4] == 1 and not self.frame.centre.any()) and x.dtype != torch.float64
        pitch = -(-dim // 16) * 16
        f32, f64, i32, i64 = torch.float32, torch.float64, torch.int32, torch.int64
        few = n if self.tracked else 1
        shapes = {
            "control": (i64, CONTROL + 2 * block), "counters": (i32, COUNTERS), "block_row": (i32, block),
            "block_exact": (f64, block), "block_weight": (f64, block), "squared": (f64, block * block),
            "pairs": (i32, block * block), "candidates": (i32, room), "doubt": (i32, room), "settled": (f64, room),
            "picks": (f32, capacity * pitch), "pick_norm": (f32, capacity), "pick_row": (i64, capacity),
            "norm": (f32, n), "stale": (i32, n), "part": (f32, 2 * parts * tile), "part_near": (i32, parts * tile),
            "ages": (i32, -(-n // span) * 16), "seen": (i32, n), "value": (f32, n), "near": (i32, few),
            "second": (f32, few), "key": (f64, n), "initial": (f64, n), "weight": (f64, n),
        }  # fmt: skip
        self.guarded = {}
        for name, (dtype, length) in shapes.items():
            whole = torch.empty(length + 2 * GUARD, dtype=dtype)
            whole.view(torch.uint8).fill_(0xA5)
            self.guarded[name] = whole
            setattr(self, name, whole[GUARD : GUARD + length])
        self.picks = self.picks.view(capacity, pitch)
        for name, value in (("control", 0), ("seen", 0), ("value", torch.inf), ("near", -1), ("second", torch.inf)):
            getattr(self, name).fill_(value)
        self.initial[:] = torch.inf if initial is None else initial
        self.weight[:] = 1 if weights is None else squared_weights(weights)
        self.key[:] = torch.where(self.weight > 0, self.weight * self.initial, 0.0)
        given = torch.tensor(given, dtype=i64)
        pack(x, self.frame, self.norm)
        pack(x, self.frame, self.pick_norm, self.picks, given)
        self.pick_row[: len(given)] = given
        self.key[given] = -1
        target = target or min(2 * block, room // 2)
        self.control[COUNT], self.control[END], self.control[WANTED] = len(given), capacity, min(2 * target, n)
        arrays = {name: getattr(self, name).data_ptr() for name in shapes}
        self.fields = {
            "x": rows(x), "mode": mode, "tracked": self.tracked, "plain": plain, "has_initial": initial is not None,
            "weighted": weights is not None, "eager": eager, "block": block, "room": room, "target": target,
            "processors": PROCESSORS, "parts": parts, "span": span, "capacity": capacity, "pitch": pitch,
            "centre": self.frame.centre.data_ptr(), "params": params.data_ptr(), **arrays,
        }  # fmt: skip
        self.told = library.KCenterPass(**self.fields)

    def refresh_all(self):
        """All rows meet all picks; nothing becomes a candidate."""
        self.control[EDGE], self.control[EDGE_ROW] = (1 << 63) - 1, 0
        self.library.kcenter_refresh_all(self.told, -1, 0)
        self.check_guards()

    def one_pass(self, levels=2):
        """Rows picked, and their squared distances."""
        self.library.kcenter_pass(self.told, levels, -1, 0)
        self.check_guards()
        taken = slice(CONTROL, CONTROL + int(self.control[ACCEPTED]))
        squared = self.control[taken.start + self.block : taken.stop + self.block].view(torch.float64)
        return self.control[taken].tolist(), squared.tolist()

    def check_guards(self):
        """Nothing was written beside an array."""
        for name, whole in self.guarded.items():
            ends = torch.cat([whole[:GUARD], whole[-GUARD:]]).view(torch.uint8)
            assert bool((ends == 0xA5).all()), name

    def widen(self, squared):
        """[N] float64 in the frame, as ErrorBound.widen."""
        relative, norm, absolute = self.frame.params[1:4].tolist()
        if relative == 0:
            return squared
        return (squared.clamp_min(0) + norm * self.norm.double() + absolute) * (1 + relative)


def distances(x, given):
    """[N, P] canonical squared distances."""
    return torch.stack([squared_distance(x, x[i : i + 1].expand_as(x)) for i in given], 1)


def check_refreshed(run, given, initial=None):
    """What is known of each row is within the bound of the truth, both ways."""
    true = distances(run.x, given)
    scale = float(run.frame.squared_scale)
    least = (true * scale).sort(1).values
    value = run.value.double()
    assert bool((least[:, 0] <= run.widen(value)).all()) and bool((value <= run.widen(least[:, 0])).all())
    if not run.tracked:
        assert torch.equal(value, true.min(1).values)
    else:
        second = least[:, 1] if len(given) > 1 else torch.full_like(value, torch.inf)
        assert bool((run.second.double() <= run.widen(second)).all())
        assert bool((second <= run.widen(run.second.double())).all())
        nearest = true.gather(1, run.near.long()[:, None])[:, 0] * scale
        assert bool((nearest <= run.widen(value)).all())
    exact = true.min(1).values if initial is None else torch.minimum(true.min(1).values, initial)
    key, others = run.key / run.weight, torch.ones(run.x.shape[0], dtype=torch.bool)
    others[given] = False
    others &= run.weight > 0
    # Divided by the weight, multiplied by it: two roundings.
    assert bool((exact[others] <= key[others] * (1 + 2**-51)).all())
    assert bool((run.key[given] == -1).all())
    assert int(run.control[DISTANCES]) == run.x.shape[0] * len(given)
    assert bool((run.seen == len(given)).all())
    return key


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", awkward())
def test_rows_meet_picks(emulated, name, mode):
    x = awkward()[name][:140]
    given = [0, min(7, x.shape[0] - 1), x.shape[0] // 2]
    run = Run(emulated, x, given, 4, mode)
    run.refresh_all()
    check_refreshed(run, given)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dim", [1, 3, 17, 128, 130, 1536])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", [16, 64, 1024])
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
        ({"mode": "ieee"}, "mode must be ffma or tf32x3"),
        ({"block": 24}, "power of two"),
        ({"block": 8}, "block must lie in 16..1024"),
        ({"room": 100}, "multiple of 64"),
        ({"room": 8192}, "room must lie in"),
        ({"target": 0}, "target must lie in"),
        ({"parts": 3}, "parts must lie in"),
        ({"span": 7}, "span"),
        ({"pitch": 24}, "pitch must be"),
        ({"capacity": 1000}, "more picks than rows"),
        ({"key": 0}, "an address is null"),
        ({"value": 2}, "not aligned"),
        ({"more": 1}, "arguments that it does not know"),
    ],
)
def test_fields_are_checked(emulated, change, message):
    run = Run(emulated, gaussian(70, 8), [0], 3)
    with pytest.raises(ValueError, match=message):
        emulated.KCenterPass(**{**run.fields, **change})
    with pytest.raises(ValueError, match="no second"):
        emulated.KCenterPass(**{name: value for name, value in run.fields.items() if name != "second"})
    with pytest.raises(ValueError, match="levels must lie in"):
        emulated.kcenter_pass(run.told, 10, -1, 0)
