"""The random projection: the peers' draw, and rounded the same in any chunks."""

import torch

from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.exact import halving_sum
from patchcore_fast.samplers import GreedyCoresetSampler
from patchcore_fast.samplers.projection import project, random_projection

from .test_base import features


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
