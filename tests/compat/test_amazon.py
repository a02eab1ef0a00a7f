"""compat.amazon and compat.ader against the restated loops of patchcore-inspection."""

import types

import numpy as np
import pytest
import torch

from patchcore_fast.compat import ader, amazon
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall

from ..peers import restated_amazon
from ..peers.draws import generators, integers, seed_all

GREEDY = ["GreedyCoresetSampler", "ApproximateGreedyCoresetSampler"]
SAMPLERS = ["IdentitySampler", "RandomSampler", *GREEDY]
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", GREEDY)
@pytest.mark.parametrize(
    "n, d, high", [(1, 4, 9), (7, 16, 9), (63, 16, 100), (500, 64, 8), (1500, 128, 100), (400, 300, 5)], ids=str
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_seeds_give_equal_coresets(name, n, d, high, seed):
    x = integers(n, d, high, seed)
    seed_all(seed, seed)
    want, state = restated_amazon.run(name, x, 0.5, d), generators()
    seed_all(seed, seed)
    sampler = getattr(amazon, name)(0.5, CPU, dimension_to_project_features_to=d)
    got = sampler.run(x)
    assert sampler.indices_.tolist() == want.tolist()
    assert torch.equal(got, x[want])
    assert generators() == state


@pytest.mark.parametrize("name", GREEDY)
def test_projection_draws_are_upstreams_and_picks_are_greedy(name):
    x = torch.randn(1200, 300, generator=torch.Generator().manual_seed(3))
    seed_all(5)
    reduced = restated_amazon.projected(x)
    seed_all(5)
    want, state = restated_amazon.run(name, x, 0.1), generators()
    seed_all(5)
    sampler = getattr(amazon, name)(0.1, CPU)
    sampler.run(x)
    assert generators() == state
    assert torch.allclose(x @ sampler.projection_, reduced, rtol=0, atol=1e-5)
    same = int((sampler.indices_ == torch.from_numpy(want)).long().cumprod(0).sum())
    if name == "GreedyCoresetSampler":
        assert greedy_shortfall(reduced, sampler.indices_) < 1e-6
    assert same >= 60, "only rounding may tell the coresets apart"


@pytest.mark.parametrize("name", GREEDY)
def test_rows_repeat_as_upstream_once_all_are_covered(name):
    x = integers(60, 16, 50)[torch.arange(600) % 60]
    seed_all(1)
    want = restated_amazon.run(name, x, 0.5, 16)
    seed_all(1)
    sampler = getattr(amazon, name)(0.5, CPU, dimension_to_project_features_to=16)
    sampler.run(x)
    assert sampler.indices_.tolist() == want.tolist()
    assert len(set(want.tolist())) <= 61 < len(want) == 300  # row 0 comes again and again


@pytest.mark.parametrize("name", GREEDY)
@pytest.mark.parametrize("as_numpy", [True, False], ids=["ndarray", "tensor"])
def test_same_type_out(name, as_numpy):
    x = integers(100, 8, 30).numpy() if as_numpy else integers(100, 8, 30)
    got = getattr(amazon, name)(percentage=0.1, device=CPU, dimension_to_project_features_to=4).run(x)
    assert type(got) is type(x) and got.dtype == x.dtype and got.shape == (10, 8)


@pytest.mark.parametrize("name", GREEDY)
def test_a_fork_may_override_the_two_steps(name):
    calls = []

    class Fork(getattr(amazon, name)):
        def _reduce_features(self, features):
            calls.append("reduce")
            return features[:, :2]

        def _compute_greedy_coreset_indices(self, features):
            calls.append(tuple(features.shape))
            return super()._compute_greedy_coreset_indices(features)[::-1].copy()

    x = integers(50, 6, 40)
    fork = Fork(0.2, CPU)
    assert torch.equal(fork.run(x), x[fork.indices_])
    assert calls == ["reduce", (50, 2)]


def test_steps_return_what_forks_expect():
    sampler = amazon.ApproximateGreedyCoresetSampler(0.1, CPU, 10, 4)
    reduced = sampler._reduce_features(integers(80, 9, 20))
    rows = sampler._compute_greedy_coreset_indices(reduced)
    assert reduced.shape == (80, 4) and isinstance(rows, np.ndarray) and rows.dtype == np.int64 and rows.shape == (8,)
    x = integers(5, 3, 9)
    matrix = sampler._compute_batchwise_differences(x, x[:2])
    assert torch.allclose(matrix, torch.cdist(x, x[:2]), atol=1e-5) and matrix.shape == (5, 2)


def test_a_count_of_zero_is_an_empty_coreset():
    for name in GREEDY:
        x = integers(9, 60, 5)
        seed_all(0)
        assert len(restated_amazon.run(name, x, 0.1)) == 0
        state = generators()
        seed_all(0)
        assert getattr(amazon, name)(0.1, CPU).run(x).shape == (0, 60)
        assert generators() == state  # the draws are made all the same
        assert getattr(amazon, name)(0.1, CPU).run(x[:0]).shape == (0, 60)


def test_random_sampler_draws_from_numpys_global_generator():
    x = integers(200, 3, 1000)
    np.random.seed(4)
    want = np.random.choice(200, 20, replace=False)
    np.random.seed(4)
    assert torch.equal(amazon.RandomSampler(0.1).run(x), x[want])


def test_identity_sampler_returns_the_object():
    marker = object()
    assert amazon.IdentitySampler().run(marker) is marker


@pytest.mark.parametrize("percentage", [0, 1, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["RandomSampler", *GREEDY])
def test_percentage_error_is_upstreams(name, percentage):
    with pytest.raises(ValueError, match=r"Percentage value not in \(0, 1\)\."):
        getattr(amazon, name)(percentage)


def test_bad_features_are_refused():
    sampler = amazon.ApproximateGreedyCoresetSampler(0.5, CPU)
    x = integers(20, 128, 5)
    x[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"1 of 20 rows.*first.* 3"):
        sampler.run(x)
    with pytest.raises(ValueError, match="2-D"):
        sampler.run(torch.zeros(3, 4, 5))
    with pytest.raises(TypeError, match="floating"):
        sampler.run(torch.zeros(30, 4, dtype=torch.int64))


def test_progress_bar_has_upstreams_text(capsys):
    amazon.ApproximateGreedyCoresetSampler(0.5, CPU).run(integers(50, 128, 90))
    assert "Subsampling...: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("shim", [amazon, ader], ids=["amazon", "ader"])
def test_install_and_undo(shim):
    module = types.ModuleType("fork.sampler")
    originals = {name: type(name, (), {}) for name in SAMPLERS}
    vars(module).update(originals)
    with shim.install(module) as replacement:
        assert all(getattr(module, name) is getattr(shim, name) for name in SAMPLERS)
        assert sorted(replacement.places) == sorted(f"fork.sampler.{name}" for name in SAMPLERS)
        assert shim.install(module).places == []  # a second time changes nothing
    assert all(getattr(module, name) is originals[name] for name in SAMPLERS)


def test_install_is_all_or_nothing():
    module = types.ModuleType("half")
    module.IdentitySampler = original = object()
    with pytest.raises(AttributeError, match=r"half has no .*RandomSampler"):
        amazon.install(module)
    assert module.IdentitySampler is original


def test_ader_install_reaches_the_default_argument_of_its_model():
    """ADer builds its sampler while its module is imported; so does this one."""
    module = types.ModuleType("model.patchcore")
    for name in SAMPLERS:
        setattr(module, name, type(name, (), {}))
    default = module.ApproximateGreedyCoresetSampler()
    default.percentage, default.number_of_starting_points, default.dimension_to_project_features_to = 0.3, 7, 64

    class PatchCore:
        def __init__(self, device, featuresampler=default, other=5):
            self.featuresampler, self.other = featuresampler, other

    module.PatchCore = PatchCore
    with ader.install(module):
        model = PatchCore("cpu")
        sampler = model.featuresampler
        assert type(sampler) is ader.ApproximateGreedyCoresetSampler and model.other == 5
        assert (sampler.percentage, sampler.number_of_starting_points) == (0.3, 7)
        assert sampler.dimension_to_project_features_to == 64
    assert PatchCore("cpu").featuresampler is default


@pytest.mark.parametrize("kind", [list, torch.from_numpy, np.ndarray.copy], ids=["list", "tensor", "ndarray"])
def test_a_fork_may_return_rows_of_any_kind(kind):
    class Fork(amazon.GreedyCoresetSampler):
        def _compute_greedy_coreset_indices(self, features):
            return kind(super()._compute_greedy_coreset_indices(features))

    x = integers(50, 128, 40)
    assert torch.equal(Fork(0.2).run(x), amazon.GreedyCoresetSampler(0.2).run(x))


def test_a_fork_may_have_a_run_of_its_own():
    class Fork(amazon.GreedyCoresetSampler):
        def run(self, features):
            self._store_type(features)
            rows = self._compute_greedy_coreset_indices(torch.as_tensor(features))
            return self._restore_type(torch.as_tensor(features)[rows]), rows

    x = integers(50, 8, 40)
    for given in (x, x.numpy()):
        got, rows = Fork(0.2).run(given)
        assert type(got) is type(given) and np.array_equal(np.asarray(got), x.numpy()[rows])


def test_the_count_is_upstreams_for_numpy_percentages():
    assert int(10 * np.float32(0.7)) == 7 != int(10 * float(np.float32(0.7)))
    for name in ("RandomSampler", *GREEDY):
        assert len(getattr(amazon, name)(np.float32(0.7)).run(integers(10, 128, 9))) == 7


def test_ader_signatures():
    x = integers(300, 20, 60)
    seed_all(2)
    want = amazon.ApproximateGreedyCoresetSampler(0.1, None, 5, 16).run(x)
    seed_all(2)
    assert torch.equal(ader.ApproximateGreedyCoresetSampler(0.1, 5, 16).run(x), want)
    seed_all(2)
    want = amazon.GreedyCoresetSampler(0.1, None, 16).run(x)
    seed_all(2)
    assert torch.equal(ader.GreedyCoresetSampler(0.1, 16).run(x), want)
