"""Whole runs of the CUDA k-center leaves against the plain float64 algorithm, index for index."""

import pytest
import torch

from patchcore_fast.kernels import Tuning, k_center_greedy
from patchcore_fast.kernels.backends.cuda_kernels.kcenter import CudaKCenter as Leaves  # noqa: F401

from ..kernels.cases import awkward, gaussian, integers
from ..kernels.conftest import poisoned_empty  # noqa: F401
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
from .kcenter_runs import DEVICE, SMALL, check, engine, leaves, select  # noqa: F401

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("name", awkward())
def test_awkward_features(name):
    x = awkward()[name][:150]
    check(x, min(x.shape[0], 10), key=("awkward", name))


@pytest.mark.skipif(DEVICE != "cpu", reason="the emulator's own switch")
@pytest.mark.parametrize("name", awkward())
def test_awkward_features_in_the_expanded_form(name, monkeypatch):
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", "86")
    x = awkward()[name][:150]
    assert leaves(x, 3).arithmetic.mode in ("ieee", "half")
    check(x, min(x.shape[0], 10), key=("awkward", name), precisions=("float32",))


SOME = ["gaussian", "duplicates", "far from the origin", "float64 near underflow", "zero", "integers", "float16"]
KINDS = [(name, kind) for kind in ("weights", "initial_min_dist", "all") for name in SOME]
KINDS += [(name, kind) for kind in ("selected", "start") for name in ("gaussian", "zero")]


@pytest.mark.parametrize("name, kind", KINDS)
def test_options(name, kind):
    x = awkward()[name][:60]
    chosen = options(x) if kind == "all" else {kind: options(x)[kind]}
    check(x, 12, key=("options", name, kind), **chosen)


@pytest.mark.parametrize("d", [1, 3, 64, 130])
@pytest.mark.parametrize("n", [1, 2, 63, 300])
def test_integers(n, d):
    # Duplicates and ties, and down to the last row where few pairs are equally near.
    check(integers(n, d), min(n, 63 if d == 1 else 16), key=("integers", n, d), precisions=("float32", "ieee"))
    check(integers(n, d), 1, initial_min_dist=torch.ones(n), precisions=("float32",))


@pytest.mark.parametrize("d", [1, 5])
def test_down_to_the_last_row(d):
    x = gaussian(63, d)
    check(x, 63, SMALL, Tuning(batch=63, block=64), key=("last", d))
    check(x, 43, selected=torch.arange(20))


@pytest.mark.parametrize("d", [1, 8, 37, 128, 300])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_types_and_widths(dtype, d):
    check((gaussian(70, d) * 2 + 1).to(dtype), 15, key=("types", dtype, d))


def test_layouts():
    x = gaussian(1500, 20)
    for view in (*views(x), x.half()[:90, 1:], x.flatten()[1 : 1 + 80 * 20].view(80, 20)):
        check(view, min(20, view.shape[0]))


@pytest.mark.parametrize("tuning", [*TUNINGS, Tuning(block=1024, graph=True)], ids=str)
def test_tuning_does_not_reach_the_picks(tuning):
    check(gaussian(120, 21), 22, tuning, key=("tuning",))


@pytest.mark.skipif(DEVICE != "cpu", reason="the emulator's own switches: a card is what it is, in no order of ours")
@pytest.mark.parametrize("arch", ["75", "80"])
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_neither_the_order_of_threads_nor_the_card_reaches_the_picks(arch, seed, monkeypatch):
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", arch)
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_SEED", seed)
    for name, x in (("gaussian", gaussian(150, 20)), ("ties", integers(150, 3)), ("half", gaussian(150, 9).half())):
        check(x, 30, key=("order", name), precisions=("float32", "ieee"))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_whatever_precision_is_permitted_the_picks_are_exact(precision):
    check(gaussian(150, 40), 20, key=("permitted",), precisions=(precision,))


def test_other_backends_pick_the_same():
    x = gaussian(1200, 16)
    expected = k_center_greedy(x, 150, start=3, backend="torch")
    found = select(x, 150, start=3, tuning=Tuning(block=64))
    assert torch.equal(found.indices.cpu(), expected.indices) and torch.equal(found.radii.cpu(), expected.radii)


@pytest.fixture(scope="module")
def photographs(real_features):
    """[300, 128] of the photographs' features."""
    return real_features[::104][:300].contiguous()
