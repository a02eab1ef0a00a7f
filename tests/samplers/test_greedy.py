"""Greedy and approximate greedy: the peers' starts, loops and means, in memory that does not grow."""

import sys

import numpy as np
import pytest
import torch

from patchcore_fast.kernels.exact import root, squared_distance
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.samplers import ApproximateGreedyCoresetSampler, GreedyCoresetSampler
from patchcore_fast.samplers.measures import farthest_from_mean, mean_distance

from ..programs import run
from .test_base import features


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


def test_no_projection():
    sampler = GreedyCoresetSampler(0.1, dimension_to_project_features_to=None)
    x = features(100, 40)
    sampler.select(x)
    assert sampler.projection_ is None


def test_equal_rows_give_the_count_back():
    out = GreedyCoresetSampler(0.1).run(torch.ones(5000, 128))
    assert out.shape == (500, 128) and len(out.unique(dim=0)) == 1


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


MEMORY = """
import re, torch
torch.set_num_threads(1)
torch.manual_seed(0)  # the cells of `settled`, whose rows it holds at once, have any size otherwise
from patchcore_fast.samplers.measures import farthest_from_mean, mean_distance
from patchcore_fast.samplers.projection import project, random_projection
from patchcore_fast.samplers.settling import settled
from patchcore_fast.kernels.ranks import Held
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
    "settled": ("settled(Held(None, x), torch.arange(8), 0.25, torch.ones(len(x), dtype=torch.bool), 0)", 24),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "name", ["project", *(pytest.param(n, marks=pytest.mark.thorough) for n in LOOPS if n != "project")]
)
def test_memory_does_not_grow_with_the_rows(name):
    """Beyond the few bytes a row of results (and for cells, of row numbers), what a loop holds does not depend on N."""
    call, bytes_a_row = LOOPS[name]
    extra = []
    for n in (60_000, 240_000):
        done = run(MEMORY.format(call=call, n=n))
        assert done.returncode == 0, done.stderr
        extra.append([float(v) - bytes_a_row * n / 2**20 for v in done.stdout.split()])
    few, many = extra
    # A copy of the added rows in float64 would be 176 MB, in float32 88.
    assert many[1] - few[1] < 24 and many[0] - few[0] < (120 if name == "settled" else 48), extra
