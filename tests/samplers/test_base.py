"""What holds for every sampler: types out as in, counts, seeds, progress, and bad input."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from patchcore_fast import inputs
from patchcore_fast.compat import amazon, softpatch
from patchcore_fast.config.features import FeatureSettings
from patchcore_fast.errors import DataError
from patchcore_fast.samplers import (
    ApproximateGreedyCoresetSampler,
    ELFSCoresetSampler,
    GreedyCoresetSampler,
    IdentitySampler,
    LowestDensitySampler,
    PrecomputedSampler,
    RandomSampler,
    TwoLevelSampler,
    make_sampler,
)


def features(n=300, d=128, seed=0):
    return torch.randint(-8, 9, (n, d), generator=torch.Generator().manual_seed(seed)).float()


def all_samplers():
    return {
        "identity": IdentitySampler(),
        "random": RandomSampler(0.1),
        "greedy": GreedyCoresetSampler(0.1),
        "approximate": ApproximateGreedyCoresetSampler(0.1),
        "precomputed": PrecomputedSampler([3, 1, 7]),
        "lowest-density": LowestDensitySampler(0.1),
        "elfs": ELFSCoresetSampler(0.1),
        "composite": ELFSCoresetSampler(0.1, preset="composite"),
    }


def drop_ins():
    """Those that give features; upstream's identity gives back what came in, whatever it is."""
    return {
        "amazon random": amazon.RandomSampler(0.1),
        "amazon greedy": amazon.GreedyCoresetSampler(0.1, torch.device("cpu")),
        "amazon approximate": amazon.ApproximateGreedyCoresetSampler(0.1, torch.device("cpu")),
        "softpatch greedy": softpatch.GreedyCoresetSampler(0.1, torch.device("cpu")),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", all_samplers())
def test_run_returns_what_came_in(name, dtype):
    x = features().to(dtype)
    sampler = all_samplers()[name]
    out = sampler.run(x)
    assert isinstance(out, torch.Tensor) and out.dtype == dtype and out.device == x.device
    assert torch.equal(out, x[sampler.indices_])
    array = x.numpy()
    again = all_samplers()[name].run(array)
    assert isinstance(again, np.ndarray) and again.dtype == array.dtype
    assert np.array_equal(again, out.numpy())
    assert sampler.indices_.dtype == torch.int64 and sampler.indices_.device.type == "cpu"


@pytest.mark.parametrize("name", [*all_samplers(), "two-level", *drop_ins()])
def test_features_that_require_gradients_come_back_detached(name):
    x = features().requires_grad_()
    if name == "two-level":
        sampler, more = TwoLevelSampler(RandomSampler(0.5), RandomSampler(0.5)), (torch.arange(300) // 30,)
    else:
        sampler, more = (all_samplers() | drop_ins())[name], ()
    out = sampler.run(x, *more)
    out = out[0] if isinstance(out, tuple) else out  # SoftPatch's give the numbers too
    assert not out.requires_grad and x.requires_grad and x.grad is None
    assert np.array_equal(out.numpy(), x.detach()[sampler.indices_].numpy())


def test_count_is_rounded_down_and_may_be_zero():
    for name in ("random", "greedy", "approximate"):
        assert make_sampler(name, 0.0199).run(features(100)).shape == (1, 128)
        assert make_sampler(name, 0.001).run(features(100).numpy()).shape == (0, 128)


def test_reversed_array():
    x = features().numpy()
    assert np.array_equal(GreedyCoresetSampler(0.1).run(x[::-1]), GreedyCoresetSampler(0.1).run(x[::-1].copy()))


@pytest.mark.parametrize("name", ["random", "greedy", "approximate"])
def test_seeds_repeat_and_differ_and_leave_global_state_alone(name):
    x = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    picks = [make_sampler(name, 0.1, seed=s).select(x).tolist() for s in (1, 1, 2)]
    assert picks[0] == picks[1] != picks[2]
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


def test_memory_mapped_features(tmp_path):
    x = features().numpy()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = GreedyCoresetSampler(0.1).run(mapped)
    assert type(out) is np.ndarray and out.flags.writeable
    assert np.array_equal(out, GreedyCoresetSampler(0.1).run(x))


def test_progress_is_passed_on():
    sampler = GreedyCoresetSampler(0.5)
    calls = []
    sampler.progress = lambda *c: calls.append(c)
    sampler.select(features())
    assert calls[-1] == (150, 150)


BAD = {
    "percentage 0": (lambda: GreedyCoresetSampler(0), ValueError, r"Percentage value not in \(0, 1\)"),
    "percentage 1": (lambda: RandomSampler(1), ValueError, r"Percentage value not in \(0, 1\)"),
    "percentage text": (lambda: RandomSampler("1%"), TypeError, "percentage must be a number"),
    "seed": (lambda: RandomSampler(0.1, seed=-1), ValueError, "seed must lie in"),
    "seed text": (lambda: GreedyCoresetSampler(0.1, seed="0"), TypeError, "seed must be an integer"),
    "width": (lambda: GreedyCoresetSampler(0.1, dimension_to_project_features_to=0), ValueError, "must be >= 1"),
    "points": (lambda: ApproximateGreedyCoresetSampler(0.1, number_of_starting_points=0), ValueError, ">= 1"),
    "name": (
        lambda: make_sampler("best"),
        ValueError,
        "make_sampler: name must be one of greedy, elfs, .*identity, got 'best'",
    ),
    "list": (lambda: RandomSampler(0.1).run([[1.0]]), TypeError, "RandomSampler: features must be an ndarray"),
    "integers": (lambda: RandomSampler(0.1).run(np.ones((4, 2), int)), TypeError, "float64 ndarray, got int64"),
    "int tensor": (lambda: IdentitySampler().run(torch.ones(4, 2).int()), TypeError, "must be floating"),
    "3-D": (lambda: IdentitySampler().run(torch.ones(4, 2, 2)), ValueError, r"be 2-D \[N, D\], got shape \(4, 2, 2\)"),
    "NaN": (lambda: GreedyCoresetSampler(0.5).run(torch.full((9, 128), torch.nan)), ValueError, "9 of 9 rows"),
    "NaN, wide": (lambda: GreedyCoresetSampler(0.5).run(torch.full((9, 200), torch.nan)), ValueError, "9 of 9 rows"),
    "row range": (lambda: PrecomputedSampler([9]).run(torch.ones(9, 2)), ValueError, "row 9 was selected, .* 9 rows"),
    "negative row": (lambda: PrecomputedSampler([-1]), DataError, "holds -1..-1, no row numbers"),
    "huge row": (lambda: PrecomputedSampler(np.array([2**64 - 1], np.uint64)), DataError, "no row numbers"),
    "ragged rows": (lambda: PrecomputedSampler([[1], [2, 3]]), DataError, "must hold integers"),
    "no columns": (lambda: GreedyCoresetSampler(0.5).run(torch.ones(4, 0).numpy()), ValueError, "at least one column"),
    "width text": (lambda: GreedyCoresetSampler(0.1, None, "128"), TypeError, "must be an integer, got '128'"),
    "float rows": (lambda: PrecomputedSampler([0.5]), DataError, "must hold integers"),
    "missing file": (lambda: PrecomputedSampler("nowhere.npy"), DataError, "nowhere.npy is not a readable .npy file"),
}


@pytest.mark.parametrize("call, error, message", BAD.values(), ids=list(BAD))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_default_dtype_changes_nothing():
    x = features(200, 40)
    want = [make_sampler(name, 0.2).select(x) for name in ("greedy", "approximate")]
    torch.set_default_dtype(torch.float64)
    try:
        got = [make_sampler(name, 0.2).select(x) for name in ("greedy", "approximate")]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_precisions_are_those_of_the_setting_everywhere():
    choices = next(f.metadata["choices"] for f in fields(FeatureSettings) if f.name == "precision")
    assert tuple(inputs.PRECISIONS) == choices
    assert all(str(dtype) == f"torch.{name}" for name, dtype in inputs.PRECISIONS.items())


def test_one_row_with_a_negative_stride():
    assert GreedyCoresetSampler(0.5).run(np.ones((1, 4), np.float32)[::-1]).shape == (0, 4)
