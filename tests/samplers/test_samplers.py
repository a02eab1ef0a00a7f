from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from patchcore_fast.errors import DataError
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.exact import halving_sum, root, squared_distance
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.samplers import (
    ApproximateGreedyCoresetSampler,
    GreedyCoresetSampler,
    IdentitySampler,
    PrecomputedSampler,
    RandomSampler,
    make_sampler,
)
from patchcore_fast.samplers.greedy import farthest_from_mean, mean_distance
from patchcore_fast.samplers.projection import project, random_projection


def features(n=300, d=128, seed=0):
    return torch.randint(-8, 9, (n, d), generator=torch.Generator().manual_seed(seed)).float()


def all_samplers():
    return {
        "identity": IdentitySampler(),
        "random": RandomSampler(0.1),
        "greedy": GreedyCoresetSampler(0.1),
        "approximate": ApproximateGreedyCoresetSampler(0.1),
        "precomputed": PrecomputedSampler([3, 1, 7]),
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


def test_count_is_rounded_down_and_may_be_zero():
    for name in ("random", "greedy", "approximate"):
        assert make_sampler(name, 0.0199).run(features(100)).shape == (1, 128)
        assert make_sampler(name, 0.001).run(features(100).numpy()).shape == (0, 128)


def distance_matrix(x):
    return ((x.double()[:, None] - x.double()[None]) ** 2).sum(-1).sqrt()


def test_greedy_starts_where_the_exact_peer_starts():
    # patchcore-inspection: argmax of the row norms of the full distance matrix.
    x = features(200)
    start = int(torch.linalg.norm(distance_matrix(x), dim=1).argmax())
    sampler = GreedyCoresetSampler(0.2)
    indices, radii = k_center_greedy_reference(x, 40, start=start)
    assert sampler.select(x).tolist() == indices.tolist()
    assert torch.equal(sampler.radii_, radii)
    assert sampler.projection_ is None


def test_approximate_follows_the_peers_loop():
    # patchcore-inspection: mean distance to 10 rows drawn by NumPy, kept as a running minimum over the picks.
    x = features(400, seed=3)
    d = distance_matrix(x)
    state = np.random.get_state()
    np.random.seed(7)
    rows = np.random.choice(400, 10, replace=False)
    np.random.set_state(state)
    nearest = d[:, torch.from_numpy(rows)].mean(1)
    picks = []
    for _ in range(60):
        picks.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, d[picks[-1]])
    assert ApproximateGreedyCoresetSampler(0.15, seed=7).select(x).tolist() == picks


def test_approximate_with_fewer_rows_than_starting_points():
    assert len(ApproximateGreedyCoresetSampler(0.9, number_of_starting_points=50).select(features(20))) == 18


def test_projection_is_the_peers_draw():
    state = torch.get_rng_state()
    torch.manual_seed(5)
    linear = torch.nn.Linear(40, 128, bias=False)
    torch.set_rng_state(state)
    assert torch.equal(random_projection(40, 128, 5), linear.weight.t())


def test_projected_selection_is_greedy_in_the_projected_space():
    x = features(500, 40)
    sampler = GreedyCoresetSampler(0.1, seed=2)
    picks = sampler.select(x)
    assert sampler.projection_.shape == (40, 128)
    reduced = project(x, sampler.projection_, torch.device("cpu"))
    torch.testing.assert_close(reduced, x @ sampler.projection_, rtol=1e-5, atol=1e-5)
    assert k_center_greedy(reduced, 50, start=int(picks[0])).indices.tolist() == picks.tolist()


def test_projection_does_not_depend_on_chunks(monkeypatch):
    x = torch.randn(700, 90, generator=torch.Generator().manual_seed(0))
    matrix = random_projection(90, 128, 0)
    whole = project(x, matrix, torch.device("cpu"))
    monkeypatch.setattr("patchcore_fast.samplers.projection._CHUNK_BYTES", 8 * 90 * 37)
    assert torch.equal(project(x, matrix, torch.device("cpu")), whole)


def test_projection_settles_what_rounding_leaves_open(monkeypatch):
    matrix = random_projection(64, 128, 0)
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # With a coarser unit every entry is open and is computed again, in the canonical order of summation.
    monkeypatch.setattr("patchcore_fast.samplers.projection._UNIT", 1e-3)
    expected = halving_sum(x[:, None] * matrix.t().double()).float()
    assert torch.equal(project(x, matrix, torch.device("cpu")), expected)


def test_reversed_array():
    x = features().numpy()
    assert np.array_equal(GreedyCoresetSampler(0.1).run(x[::-1]), GreedyCoresetSampler(0.1).run(x[::-1].copy()))


def test_no_projection():
    sampler = GreedyCoresetSampler(0.1, dimension_to_project_features_to=None)
    x = features(100, 40)
    sampler.select(x)
    assert sampler.projection_ is None


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


def test_equal_rows_give_the_count_back():
    out = GreedyCoresetSampler(0.1).run(torch.ones(5000, 128))
    assert out.shape == (500, 128) and len(out.unique(dim=0)) == 1


def test_precomputed_from_file(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([5, 2, 9]))
    assert PrecomputedSampler(tmp_path / "rows.npy").select(features()).tolist() == [5, 2, 9]


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
    "name": (lambda: make_sampler("best"), ValueError, "greedy, elfs, approximate, random or identity, got 'best'"),
    "list": (lambda: RandomSampler(0.1).run([[1.0]]), TypeError, "RandomSampler: features must be an ndarray"),
    "integers": (lambda: RandomSampler(0.1).run(np.ones((4, 2), int)), TypeError, "float64 ndarray, got int64"),
    "int tensor": (lambda: IdentitySampler().run(torch.ones(4, 2).int()), TypeError, "must be floating"),
    "3-D": (
        lambda: IdentitySampler().run(torch.ones(4, 2, 2)),
        ValueError,
        r"must be 2-D \[N, D\], got shape \(4, 2, 2\)",
    ),
    "NaN": (lambda: GreedyCoresetSampler(0.5).run(torch.full((9, 128), torch.nan)), ValueError, "9 of 9 rows"),
    "NaN, wide": (lambda: GreedyCoresetSampler(0.5).run(torch.full((9, 200), torch.nan)), ValueError, "9 of 9 rows"),
    "row range": (lambda: PrecomputedSampler([9]).run(torch.ones(9, 2)), ValueError, "row 9 was selected, .* 9 rows"),
    "negative row": (lambda: PrecomputedSampler([-1]), DataError, "holds -1..-1, no row numbers"),
    "huge row": (lambda: PrecomputedSampler(np.array([2**64 - 1], np.uint64)), DataError, "no row numbers"),
    "ragged rows": (lambda: PrecomputedSampler([[1], [2, 3]]), DataError, "must hold integers"),
    "no columns": (
        lambda: GreedyCoresetSampler(0.5).run(np.ones((4, 0), np.float32)),
        ValueError,
        "at least one column",
    ),
    "width text": (lambda: GreedyCoresetSampler(0.1, None, "128"), TypeError, "must be an integer, got '128'"),
    "float rows": (lambda: PrecomputedSampler([0.5]), DataError, "must hold integers"),
    "missing file": (lambda: PrecomputedSampler("nowhere.npy"), DataError, "nowhere.npy is not a readable .npy file"),
}


@pytest.mark.parametrize("call, error, message", BAD.values(), ids=list(BAD))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_damaged_selection_file(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00 cut short")
    with pytest.raises(DataError, match=r"x.npy is not a readable .npy file"):
        PrecomputedSampler(tmp_path / "x.npy")


def test_mean_distance_is_the_rounded_canonical_mean():
    generator = torch.Generator().manual_seed(0)
    for x in (
        torch.randn(5000, 37, generator=generator),
        torch.randint(0, 3, (3000, 5), generator=generator).float(),
        torch.randn(2500, 8, generator=generator, dtype=torch.float64) * 1e200,
        torch.randn(50, 8, generator=generator, dtype=torch.float64) * 1e-40,
        torch.ones(30, 4),
    ):
        points = x[:7]
        want = sum(root(squared_distance(x, p)) for p in points) / 7
        middle = (want > 1e-30) & (want < 1e30)
        assert torch.equal(mean_distance(x, points), torch.where(middle, want.float().double(), want))


def test_farthest_from_mean_takes_the_lowest_of_equal_rows():
    x = torch.zeros(9, 3)
    x[2], x[5], x[7] = torch.tensor([3.0, 0, 0]), torch.tensor([0, -3.0, 0]), torch.tensor([0, 0, 3.0])
    centred = torch.cat([x, -x])
    assert farthest_from_mean(centred) == 2
    # Farther by one unit in the last place of float32, behind rows that nearly tie.
    y = torch.cat([torch.full((3001, 1), 1.0), torch.full((3000, 1), -1.0), torch.tensor([[-1.0000001]])])
    assert farthest_from_mean(y) == 6001


def test_mean_distance_of_float64_rows_is_not_rounded():
    x = torch.randn(400, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-2
    x[200:, 0] += 1e6
    got = mean_distance(x, x[:3])
    assert torch.equal(got, sum(root(squared_distance(x, p)) for p in x[:3]) / 3)
    assert not torch.equal(got, got.float().double())


def test_default_dtype_changes_nothing():
    x = features(200, 40)
    want = [make_sampler(name, 0.2).select(x) for name in ("greedy", "approximate")]
    torch.set_default_dtype(torch.float64)
    try:
        got = [make_sampler(name, 0.2).select(x) for name in ("greedy", "approximate")]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_one_row_with_a_negative_stride():
    assert GreedyCoresetSampler(0.5).run(np.ones((1, 4), np.float32)[::-1]).shape == (0, 4)


MEMORY = """
import re, torch
torch.set_num_threads(1)
torch.manual_seed(0)  # the cells of `settled`, whose rows it holds at once, have any size otherwise
from patchcore_fast.samplers.greedy import farthest_from_mean, mean_distance
from patchcore_fast.samplers.projection import project, random_projection
from patchcore_fast.samplers.settling import settled
def now(what):
    return int(re.search(what + r":\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
matrix = random_projection(128, 8, 0)
def call(x):
    {call}
x = torch.empty({n}, 128)
call(x[:3000].normal_())
for part in x.split(10000):
    part.normal_()
open("/proc/self/clear_refs", "w").write("5")
before = now("VmRSS")
call(x)
print(now("VmHWM") - before, now("VmRSS") - before)
"""
LOOPS = {
    "farthest_from_mean": ("farthest_from_mean(x)", 8),
    "mean_distance": ("mean_distance(x, x[:10])", 8),
    "project": ('project(x, matrix, torch.device("cpu"))', 32),
    "settled": ("settled(x, torch.arange(8), 0.25, torch.ones(len(x), dtype=torch.bool), 0)", 24),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", LOOPS)
def test_memory_does_not_grow_with_the_rows(name):
    """Beyond the few bytes a row of results (and for cells, of row numbers), what a loop holds does not depend on N."""
    call, bytes_a_row = LOOPS[name]
    extra = []
    for n in (60_000, 240_000):
        out = subprocess.run(
            [sys.executable, "-c", MEMORY.format(call=call, n=n)], capture_output=True, text=True, check=True
        )
        extra.append([float(v) - bytes_a_row * n / 2**20 for v in out.stdout.split()])
    few, many = extra
    # A copy of the added rows in float64 would be 176 MB, in float32 88.
    assert many[1] - few[1] < 24 and many[0] - few[0] < (120 if name == "settled" else 48), extra
