"""compat.softpatch against the restated loop of SoftPatch."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from patchcore_fast.compat import amazon, softpatch

from ..peers import restated_amazon, restated_others
from ..peers.draws import generators, integers, seed_all

CPU = torch.device("cpu")
GREEDY = ["GreedyCoresetSampler", "ApproximateGreedyCoresetSampler", "WeightedGreedyCoresetSampler"]


def some_weights(kind: str, n: int) -> torch.Tensor | None:
    rng = np.random.default_rng(5)
    return {
        "none": None,
        "0/1": torch.from_numpy(rng.integers(0, 2, n)),
        "bool": torch.from_numpy(rng.integers(0, 2, n) == 1),
        "all zero": torch.zeros(n),
        "powers": torch.from_numpy(2.0 ** rng.integers(-2, 3, n)).float(),
        "float": torch.from_numpy(rng.random(n, dtype=np.float32)),
    }[kind]


@pytest.mark.parametrize("n, high", [(1, 9), (7, 9), (63, 100), (200, 8), (400, 100)], ids=str)
@pytest.mark.parametrize("kind", ["none", "0/1", "bool", "all zero", "powers", "float"])
@pytest.mark.parametrize("percentage", [0.1, 0.6])
def test_weights(n, high, kind, percentage):
    """128 columns, so that nothing is projected. Upstream's weighted sampler takes 128 starting rows."""
    x, weight = integers(n, 128, high), some_weights(kind, n)
    seed_all()
    want, state = restated_others.softpatch(x, int(n * percentage), weight, 128), generators()
    seed_all()
    sampler = softpatch.WeightedGreedyCoresetSampler(percentage, CPU)
    sampler.set_sampling_weight(weight)
    rows, indices = sampler.run(x)
    assert indices.tolist() == want.tolist() == sampler.indices_.tolist()
    assert torch.equal(rows, x[indices])
    assert generators() == state


def test_the_first_pick_may_have_weight_zero_and_no_later_one():
    x = integers(200, 128, 50)
    np.random.seed(2)
    first = restated_others.softpatch(x, 1, None, 128)[0]
    weight = torch.ones(200)
    weight[first] = 0
    weight[::3] = 0
    np.random.seed(2)
    want = restated_others.softpatch(x, 120, weight, 128)
    np.random.seed(2)
    sampler = softpatch.WeightedGreedyCoresetSampler(0.6, CPU)
    sampler.set_sampling_weight(weight)
    got = sampler.run(x)[1]
    assert got[0] == first and (weight[got[1:]] > 0).all()
    assert got.tolist() == want.tolist()
    sampler = softpatch.WeightedGreedyCoresetSampler(0.9, CPU)
    sampler.set_sampling_weight(weight)
    positive = int((weight > 0).sum())
    assert set(sampler.run(x)[1][positive + 1 :]) == {0}, "used up"


def test_arguments_of_the_weighted_sampler_are_in_force_as_upstream():
    sampler = softpatch.WeightedGreedyCoresetSampler(0.1, CPU, 10, 64)
    assert (sampler.number_of_starting_points, sampler.dimension_to_project_features_to) == (64, 128)
    sampler.number_of_starting_points, sampler.dimension_to_project_features_to = 10, 5
    x, weight = integers(300, 5, 20), some_weights("0/1", 300)
    np.random.seed(3)
    want = restated_others.softpatch(x, 30, weight, 10)
    np.random.seed(3)
    sampler.set_sampling_weight(weight.numpy())
    assert sampler.run(x)[1].tolist() == want.tolist()


@pytest.mark.parametrize("name", GREEDY)
@pytest.mark.parametrize("form", ["ndarray", "tensor"])
def test_run_gives_rows_and_indices(name, form):
    x = integers(200, 128, 30)
    given = x.numpy() if form == "ndarray" else x.double().requires_grad_()
    seed_all()
    sampler = getattr(softpatch, name)(0.2, CPU)
    rows, indices = sampler.run(given)
    assert type(rows) is type(given) and rows.dtype == given.dtype
    assert isinstance(indices, np.ndarray) and indices.dtype == np.int64
    assert (torch.as_tensor(rows) == torch.as_tensor(given)[indices]).all()
    seed_all()
    plain = {"GreedyCoresetSampler": restated_amazon.exact}.get(name, restated_amazon.approximate)
    points = {"WeightedGreedyCoresetSampler": (128,)}.get(name, ())
    assert indices.tolist() == plain(x, 40, *points).tolist()


def test_identity_and_random_give_rows_only():
    x = integers(50, 4, 9)
    assert softpatch.IdentitySampler().run(x) is x
    np.random.seed(0)
    want = np.random.choice(50, 10, replace=False)
    np.random.seed(0)
    assert torch.equal(softpatch.RandomSampler(0.2).run(x), x[want])


def test_projected_features_and_an_attribute_weight():
    x = torch.randn(600, 300, generator=torch.Generator().manual_seed(0))
    weight = some_weights("0/1", 600)
    seed_all()
    reduced = restated_amazon.projected(x)
    want, state = restated_others.softpatch(reduced.double(), 60, weight), generators()
    seed_all()
    sampler = softpatch.ApproximateGreedyCoresetSampler(0.1, CPU)
    sampler.sampling_weight = weight
    assert sampler.run(x)[1].tolist() == want.tolist()
    assert generators() == state
    assert sampler.projection_.shape == (300, 128)


@pytest.mark.parametrize(
    "weight, error, message",
    [
        (torch.ones(9), ValueError, r"WeightedGreedyCoresetSampler: sampling_weight must have shape \(20,\).*\(9,\)"),
        (-torch.ones(20), ValueError, "sampling_weight must be >= 0.*20 of 20"),
        (torch.full((20,), torch.nan), ValueError, "sampling_weight must be >= 0 and not NaN"),
        (torch.full((20,), torch.inf), ValueError, "weights must be finite"),
        ("heavy", TypeError, r"sampling_weight must be numbers \[20\], got str"),
    ],
)
def test_bad_weights(weight, error, message):
    sampler = softpatch.WeightedGreedyCoresetSampler(0.1, CPU)
    sampler.set_sampling_weight(weight)
    with pytest.raises(error, match=message):
        sampler.run(integers(20, 128, 9))


def test_bad_features():
    sampler = softpatch.ApproximateGreedyCoresetSampler(0.1, CPU)
    with pytest.raises(ValueError, match="2 of 20 rows are not finite, the first is row 3"):
        sampler.run(integers(20, 128, 9).index_fill(0, torch.tensor([3, 5]), torch.nan))
    with pytest.raises(TypeError, match="features"):
        sampler.run([[1.0]])
    with pytest.raises(ValueError, match="Percentage value not in"):
        softpatch.WeightedGreedyCoresetSampler(1.5, CPU)


def test_install(monkeypatch):
    for name in ("sampler", "src.sampler"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match="import it first"):
        softpatch.install()
    names = ["IdentitySampler", "RandomSampler", *GREEDY]
    modules = [types.ModuleType(name) for name in ("sampler", "src.sampler")]
    for module in modules:
        for name in names:
            setattr(module, name, type(name, (), {}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    saved = [dict(vars(module)) for module in modules]
    with softpatch.install() as replacement:
        assert len(replacement.places) == 10
        assert all(getattr(module, name) is getattr(softpatch, name) for module in modules for name in names)
    assert [dict(vars(module)) for module in modules] == saved
    with pytest.raises(AttributeError, match="WeightedGreedyCoresetSampler"):
        softpatch.install(amazon)
