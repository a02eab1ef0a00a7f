"""Whole runs of the Triton k-center leaves against the plain float64 algorithm, index for index."""

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels import Tuning, k_center_greedy
from patchcore_fast.kernels.backends.triton_kernels import kcenter
from patchcore_fast.kernels.backends.triton_kernels.tiles import Tile
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall

from ..kernels.cases import awkward, gaussian, integers
from ..kernels.engines import once
from ..kernels.tiled_kcenter import (  # noqa: F401
    TUNINGS,
    options,
    test_distances_below_the_blur_are_settled_together,
    test_extreme_weights,
    test_more_candidates_than_there_is_room_for,
    test_more_picks_than_distinct_rows_with_weights,
    test_photographs,
    views,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TINY = Tile(16, 16, 16, 4, 1)  # several tiles of rows and of picks, and chunks of columns, even of small matrices
SMALL = Tuning(batch=20, block=16)
Leaves = kcenter.TritonKCenter


@pytest.fixture
def tile(monkeypatch):
    def use(chosen):
        monkeypatch.setattr(kcenter, "choose_tile", lambda *shape: chosen)

    use(TINY)
    return use


def check(x, k, *tunings, key=None, device=DEVICE, memory_limit=None, **options):
    """Indices and radii equal the plain float64 algorithm's, bit for bit, with every tuning; the last result."""
    x = x.to(device)
    options = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in options.items()}

    def reference():
        return k_center_greedy_reference(x, k, **options)

    indices, radii = reference() if key is None else once(("triton", *key, k), reference)
    for tuning in tunings or (SMALL,):
        result = k_center_greedy(x, k, tuning=tuning, backend="triton", memory_limit=memory_limit, **options)
        assert result.indices.tolist() == indices.tolist(), tuning
        assert torch.equal(result.radii.cpu(), radii), tuning
        assert result.indices.dtype == torch.int64 and result.radii.dtype == torch.float32
        assert result.indices.device == result.radii.device == x.device
        assert result.distances <= x.shape[0] * (k + len(options.get("selected", ())))
    return result


ALONE = ["gaussian", "duplicates", "far from the origin", "float64 near underflow", "zero", "integers"]
REST = [pytest.param(name, marks=pytest.mark.thorough) for name in awkward() if name not in ALONE]


@pytest.mark.parametrize("name", [*ALONE, *REST])
def test_awkward_features(name, tile):
    tile(Tile(32, 16, 16, 4, 1))
    x = awkward()[name]
    check(x, min(x.shape[0], 12), SMALL, key=("awkward", name))


KINDS = [(name, "all") for name in awkward()]
SINGLE = ("weights", "initial_min_dist", "selected", "start")
KINDS += [pytest.param(name, kind, marks=[pytest.mark.thorough] * (name not in ("gaussian", "zero")))
          for kind in SINGLE for name in ALONE]  # fmt: skip
KINDS += [pytest.param(*r.values, kind, marks=r.marks) for kind in ("weights", "initial_min_dist") for r in REST]


@pytest.mark.parametrize("name, kind", KINDS)
def test_options(name, kind, tile):
    tile(Tile(32, 16, 16, 4, 1))
    x = awkward()[name][:60]
    chosen = options(x) if kind == "all" else {kind: options(x)[kind]}
    check(x, 12, SMALL, key=("options", name, kind), **chosen)


WIDTHS = (1, 3, 64, 128, 129, 300)
SIZES = [(n, d) for n in (1, 2, 63, 500) for d in WIDTHS]


@pytest.mark.parametrize(("n", "d"), [pytest.param(*s, marks=[pytest.mark.thorough] * (s[0] == 500)) for s in SIZES])
def test_integers(n, d):
    # Duplicates and ties, and down to the last row where few pairs are equally near.
    check(integers(n, d), min(n, 63 if d < 64 else 20), SMALL, key=("integers", n, d))
    check(integers(n, d), 1, SMALL, initial_min_dist=torch.ones(n))


@pytest.mark.parametrize("d", [1, *(pytest.param(d, marks=pytest.mark.thorough) for d in (2, 5))])
def test_down_to_the_last_row(d, tile):
    x = gaussian(63, d)
    check(x, 63, SMALL, Tuning(batch=63, block=64), key=("last", d))
    check(x, 43, SMALL, selected=torch.arange(20))


TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of float32 all widths but two; of each other type those around a tile, a narrow or a wide one.
RARE = {torch.float16: (1,), torch.bfloat16: (300,), torch.float32: (), torch.float64: (300,)}
TYPED = [pytest.param(dtype, d, marks=[pytest.mark.thorough] * (d in (3, 128, *RARE[dtype])))
         for dtype in TYPES for d in WIDTHS]  # fmt: skip


@pytest.mark.parametrize("dtype, d", TYPED, ids=str)
def test_types_and_widths(dtype, d):
    check((gaussian(70, d) * 2 + 1).to(dtype), 15, key=("types", dtype, d))


def test_layouts(tile):
    for view in views(gaussian(1500, 20)):
        check(view, min(20, view.shape[0]))


TILES = [TINY, Tile(32, 16, 16, 4, 1), Tile(16, 64, 32, 4, 1), Tile(64, 64, 64, 4, 1)]


@pytest.mark.parametrize("tuning", TUNINGS, ids=str)
def test_tuning_does_not_reach_the_picks(tuning, tile):
    check(gaussian(120, 21), 22, tuning, key=("tuning",))


TILED = [pytest.param(d, chosen, marks=[pytest.mark.thorough] * (d == 70 and chosen is not TINY), id=f"{d}-{chosen}")
         for d in (21, 70) for chosen in TILES]  # fmt: skip


@pytest.mark.parametrize("d, chosen", TILED)
def test_tiles_do_not_reach_the_picks(chosen, d, tile):
    tile(chosen)
    check(gaussian(100, d), 25, Tuning(batch=12, block=16), key=("tiles", d))
    check(integers(100, d), 25, Tuning(batch=12, block=16), key=("tiles, integers", d))


@pytest.fixture(scope="module")
def photographs(real_features):
    """[400, 128] of the photographs' features."""
    return real_features[::78][:400].contiguous()


ROUGH = {
    "gaussian": gaussian(150, 40),
    "far": gaussian(150, 8) * 1e-3 + 3,
    "integers": integers(150, 8) * 60,  # exact in float32, not in bfloat16
    "half": gaussian(150, 9).half(),
}


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("name", ROUGH)
def test_less_precision_keeps_the_radius(name, precision):
    # The interpreter computes tf32 in float32; its bfloat16 is real.
    x, passes = ROUGH[name].to(DEVICE), []

    def progress(done, total):
        passes.append(done)
        assert len(passes) < 100, "it makes no progress"

    result = k_center_greedy(x, 25, backend="triton", precision=precision, tuning=SMALL, progress=progress)
    radii = k_center_greedy_reference(x, 26)[1]
    assert len(set(result.indices.tolist())) == 25 and result.radii[0] == torch.inf
    rows = x.double()
    left = torch.cdist(rows, rows[result.indices], compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    assert float(left.max()) <= 1.01 * float(radii[-1])
    # Every pick was within 1 % of the farthest row when it was made, and its radius is that distance.
    assert greedy_shortfall(x, result.indices) <= 0.01
    nearest = [float((rows[result.indices[:i]] - rows[row]).square().sum(1).min().sqrt())
               for i, row in enumerate(result.indices.tolist()) if i]  # fmt: skip
    torch.testing.assert_close(result.radii[1:].cpu().double(), torch.tensor(nearest).double(), rtol=0.01, atol=0)
