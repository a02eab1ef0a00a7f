"""k-center on float16 and bfloat16 rows as they are: the mode "half", its kernels and whole runs."""

import pytest
import torch

from patchcore_fast.kernels.backends.cuda_kernels import kcenter as host
from patchcore_fast.kernels.backends.cuda_kernels.frame import pack
from patchcore_fast.kernels.backends.device.layout import LEVELS
from patchcore_fast.kernels.exact import squared_distance
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.rounding import UNIT

from ..kernels.cases import gaussian, integers
from ..kernels.tiled_kcenter import options
from .addresses import rows
from .kcenter_buffers import Run, check_refreshed
from .kcenter_runs import DEVICE, SMALL, check, engine, leaves  # noqa: F401

HALVES = [torch.float16, torch.bfloat16]
of_halves = pytest.mark.parametrize("dtype", HALVES, ids=str)
ON_EMULATOR = pytest.mark.skipif(DEVICE != "cpu", reason="the emulator's own switches and addresses")
ARCH, BITS = "PATCHCORE_FAST_CUDA_EMULATED_ARCH", "PATCHCORE_FAST_CUDA_EMULATED_MMA_HALF"


def mode(x, **budget):
    """What the bulk of the work runs in."""
    return leaves(x, 3, **budget).arithmetic.mode


STAY = {
    "gaussian": lambda: gaussian(300, 24),
    "narrow": lambda: gaussian(300, 8),
    "wide": lambda: gaussian(140, 264),
    "integers": lambda: integers(300, 8),
    "duplicates": lambda: gaussian(60, 16).repeat(5, 1),
    "clusters": lambda: gaussian(13, 40).repeat(20, 1) + 1e-2 * gaussian(260, 40, 1),
    "three far groups": lambda: gaussian(201, 16) + 30 * (torch.arange(201) % 3 - 1)[:, None],
    "zero": lambda: torch.zeros(40, 8),
    "small": lambda: gaussian(200, 16) * 2.0**-16,  # subnormal in float16
    "large": lambda: gaussian(200, 16) * 1e4,
    "mixed sizes": lambda: gaussian(200, 16) * torch.logspace(-6, 3, 200)[:, None],
}


@of_halves
@pytest.mark.parametrize("name", STAY)
@pytest.mark.usefixtures("engine")
def test_rows_that_stay_what_they_are(name, dtype):
    x = STAY[name]().to(dtype)
    assert mode(x) == "half"
    check(x, 30, key=("halves", name, dtype), precisions=("float32",))


COPIED = {
    "odd width": lambda t: gaussian(150, 9).to(t),
    "every other column": lambda t: gaussian(150, 16).to(t)[:, ::2],
    "columns first": lambda t: gaussian(16, 152).to(t).t(),
    "rows off 16 bytes": lambda t: gaussian(150, 20).to(t)[:, :16],
    "begins off 16 bytes": lambda t: gaussian(151, 16).to(t).flatten()[4:-12].view(150, 16),
}


@of_halves
@pytest.mark.parametrize("name", COPIED)
@pytest.mark.usefixtures("engine")
def test_rows_that_lie_otherwise_are_copied(name, dtype, monkeypatch):
    x = COPIED[name](dtype)
    made = leaves(x, 3)
    assert made.arithmetic.mode == "half" and made.copied == dtype
    check(x, 20, key=("halves copied", name, dtype), precisions=("float32",))
    # Without room for a copy they are taken as ever.
    made = leaves(x, 3, memory_limit=made.bytes(16) - 1)
    assert made.arithmetic.mode in ("tf32x3", "ieee") and made.copied is None
    monkeypatch.setattr(host, "free_memory", lambda device: 0)
    assert leaves(x, 3).copied is None
    check(x, 20, key=("halves copied", name, dtype), precisions=("float32",))


TAKEN_AS_EVER = {
    "off-centre": lambda t: (gaussian(150, 16) + 50).to(t),
    "off-centre, odd width": lambda t: (gaussian(150, 9) + 50).to(t),
    "float32": lambda t: gaussian(150, 16),
    "float64": lambda t: gaussian(150, 16).double(),
}


@of_halves
@pytest.mark.parametrize("name", TAKEN_AS_EVER)
@pytest.mark.usefixtures("engine")
def test_other_rows_are_taken_as_ever(name, dtype):
    x = TAKEN_AS_EVER[name](dtype)
    assert mode(x) in ("tf32x3", "ieee")
    check(x, 20, key=("other halves", name, dtype), precisions=("float32",))


@pytest.mark.usefixtures("engine")
def test_bfloat16_rows_that_need_a_scale_are_taken_as_ever():
    for scale in (2.0**-60, 2.0**60):
        x = (gaussian(150, 16) * scale).bfloat16()
        assert mode(x) in ("tf32x3", "ieee")
        check(x, 20, precisions=("float32",))


@pytest.mark.usefixtures("engine")
def test_precision_says_whether_halves_may_stay():
    x = gaussian(100, 16).half()
    taken = {precision: mode(x, precision=precision) for precision in ("float32", "ieee", "tf32x3", "tf32", "bf16")}
    assert taken == {"float32": "half", "ieee": "ffma", "tf32x3": "tf32x3", "tf32": "half", "bf16": "half"}


@of_halves
@pytest.mark.parametrize("kind", ["weights", "initial_min_dist", "selected", "start", "all"])
@pytest.mark.usefixtures("engine")
def test_options(kind, dtype):
    x = gaussian(90, 16).to(dtype)
    chosen = options(x) if kind == "all" else {kind: options(x)[kind]}
    check(x, 15, precisions=("float32",), **chosen)


@of_halves
@pytest.mark.parametrize("d", [8, 16, 24, 32, 40, 64, 136])
@pytest.mark.usefixtures("engine")
def test_down_to_the_last_row(d, dtype):
    check((gaussian(63, d) * 2).to(dtype), 63, precisions=("float32",))


@ON_EMULATOR
@of_halves
def test_by_card_and_verdict(emulated, monkeypatch, dtype):
    x = gaussian(150, 16).to(dtype)
    expected = k_center_greedy_reference(x, 12)[0].tolist()
    for arch, taken in (("75", "ieee"), ("80", "half"), ("86", "half"), ("120", "half")):
        monkeypatch.setenv(ARCH, arch)
        assert mode(x) == taken
        assert check(x, 12, precisions=("float32",)).indices.tolist() == expected
    monkeypatch.setenv(ARCH, "90")
    monkeypatch.setenv(BITS, "22 24 22 1")
    assert mode(x) == "tf32x3"
    check(x, 12, precisions=("float32",))
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_CODE", "75")  # PTX of 7.5, on a later card
    assert mode(x) == "ieee"


@ON_EMULATOR
@pytest.mark.parametrize("size", [1e-20, 1e-39])
def test_what_is_lost_of_tiny_bfloat16_numbers_the_bound_has_room_for(emulated, monkeypatch, size):
    # Products below the smallest float32, and numbers below the normal ones, which tensor cores may take as zeros.
    x = torch.cat([torch.ones(1, 24), gaussian(120, 24) * size]).bfloat16()
    for bits in ("24 24 22 1", "24 24 22 0"):
        monkeypatch.setenv(BITS, bits)
        assert mode(x) == "half"
        check(x, 20, key=("tiny halves", size), precisions=("float32",))
        run = Run(emulated, x, [0, 60], 1, "half")
        run.refresh_all()
        check_refreshed(run, [0, 60])


@pytest.mark.usefixtures("engine")
def test_picks_are_kept_as_halves():
    made = [leaves(x, 40) for x in (gaussian(100, 24), gaussian(100, 24).half())]
    assert [run.picks.dtype for run in made] == [torch.float32, torch.float16]
    assert made[0].bytes(16) - made[1].bytes(16) == 40 * 32 * 2  # 24 columns take the room of 32


@ON_EMULATOR
@of_halves
def test_the_order_of_threads_does_not_reach_the_picks(emulated, every_seed, dtype):
    for _ in every_seed(3):
        check(gaussian(200, 40).to(dtype), 70, key=("order of halves", dtype), precisions=("float32",))


@ON_EMULATOR
@of_halves
@pytest.mark.parametrize("dim", [8, 16, 24, 32, 40, 128, 1536])
def test_rows_meet_picks(emulated, dim, dtype):
    x = (gaussian(133, dim) * 2).to(dtype)  # more rows than a tile has, fewer than two tiles
    given = list(range(0, 130, 2))  # more picks than a tile has
    run = Run(emulated, x, given, 1, "half")
    run.refresh_all()
    check_refreshed(run, given)


@ON_EMULATOR
@of_halves
@pytest.mark.parametrize("n", [1, 127, 128, 129, 700, 1100])
def test_tiles_whole_and_in_pieces(emulated, n, dtype):
    # With 16 parts, up to 8 tiles are cut into pieces: 700 rows are 6 tiles of 2 pieces, 1,100 are 9 whole ones.
    given = [9 * i % n for i in range(min(n, 390 if n < 700 else 150))]
    x = gaussian(n, 24) if n > 1 else integers(1, 24)  # one row of any numbers would be its own centre
    run = Run(emulated, x.to(dtype), given, 0, "half")
    run.refresh_all()
    check_refreshed(run, given)


# Every name and every block once; the other four pairs are for -m thorough.
PAIRS = (("gaussian", 16), ("integers", 1024), ("duplicates", 16), ("clusters", 1024))
ALTERNATELY = [pytest.param(name, block, marks=[pytest.mark.thorough] * ((name, block) not in PAIRS))
               for name, _ in PAIRS for block in (16, 1024)]  # fmt: skip


@ON_EMULATOR
@of_halves
@pytest.mark.parametrize("name, block", ALTERNATELY)
def test_passes_pick_what_greedy_picks(emulated, name, block, dtype):
    x, k = STAY[name]().to(dtype), 40
    picks, radii = k_center_greedy_reference(x, k)
    run = Run(emulated, x, [int(picks[0])], k - 1, "half", block=block, room=min(8 * block, 4096))
    run.refresh_all()
    found, squared = [], []
    for _ in range(200):
        if len(found) == k - 1:
            break
        more = run.one_pass(len(LEVELS) if len(found) % 2 else 2)
        found, squared = found + more[0], squared + more[1]
    assert found == picks[1:].tolist()
    assert torch.equal(torch.tensor(squared, dtype=torch.float64).sqrt().float(), radii[1:])
    kept = torch.zeros_like(run.picks)
    pack(x, run.frame, torch.empty(k), kept, picks)
    assert torch.equal(kept[:, : x.shape[1]], x[picks]) and not kept[:, x.shape[1] :].any()
    assert torch.equal(run.picks, kept) and torch.equal(run.pick_norm, run.norm[picks])


def attack(kind, dim, seed):
    """[130, D] rows whose sums lose as much as they can; of both signs, so that there is no centre."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(130, dim, generator=generator) + 1
    if kind == "one large column first":  # all products behind it end just below the last bit of the sum
        x *= 2.0**-6
        x[:, 0] = 16
    elif kind == "rising":
        x *= torch.linspace(0.05, 1, dim)
    return x * torch.tensor([-1, 1, 2.0**-5])[torch.arange(130) % 3][:, None]


ATTACKS = [pytest.param(kind, dim, marks=[pytest.mark.thorough] * (dim == 2048 and kind != "one size"))
           for kind in ("one size", "one large column first", "rising") for dim in (8, 24, 56, 512, 2048)]  # fmt: skip


@ON_EMULATOR
@of_halves
@pytest.mark.parametrize("kind, dim", ATTACKS)
def test_the_bound_holds_where_every_cut_loses(emulated, kind, dim, dtype):
    worst = 0.0
    for seed in range(2):
        x = attack(kind, dim, seed).to(dtype)
        for given in (0, 1):
            run = Run(emulated, x, [given], 1, "half")
            run.refresh_all()
            check_refreshed(run, [given])
            true = squared_distance(x, x[given : given + 1].expand_as(x))
            size = (run.norm.double().sqrt() + run.norm[given].double().sqrt()).square()
            worst = max(worst, float(((run.value.double() - true).abs() / size).max()))
    assert worst <= (2 * dim + 64) * UNIT
    if dim == 2048 and kind == "one size":
        assert worst > dim / 64 * UNIT  # within two orders of what the bound says: it is not idle


@ON_EMULATOR
def test_what_the_mode_refuses(emulated, monkeypatch):
    x = gaussian(70, 16).half()
    run = Run(emulated, x, [0], 3, "half")
    wide = torch.zeros(70, 20, dtype=torch.float16)
    for change, message in (
        ({"rows": rows(wide[:, :16])}, "mode half takes plain rows only"),
        ({"rows": rows(gaussian(70, 32).half()[:, ::2])}, "mode half takes plain rows only"),
        ({"plain": False}, "mode half takes plain rows only"),
        ({"rows": rows(gaussian(70, 32).half())}, "rows must be those of x, with up to 15 columns more"),
        ({"rows": rows(gaussian(69, 16).half())}, "rows must be those of x, with up to 15 columns more"),
        ({"picks": (16, "float32", 64)}, "picks must be float16, got float32"),
        ({"picks": (8, "float16", 64)}, "picks must be 16-byte aligned"),
        ({"picks": (16, "float16", 63)}, "picks must have at least 64 elements, got 63"),
    ):
        with pytest.raises(ValueError, match=message):
            emulated.KCenterPass(**{**run.fields, **change})
    monkeypatch.setenv(ARCH, "75")
    for enqueue in (run.refresh_all, run.one_pass):
        with pytest.raises(RuntimeError, match=r"801 .* in update_kernel"):
            enqueue()
