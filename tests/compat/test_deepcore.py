"""compat.deepcore against the restated loop of DeepCore."""

import sys
import types

import numpy as np
import pytest
import torch

from patchcore_fast.compat import deepcore
from patchcore_fast.compat.deepcore import is_euclidean, k_center_greedy

from ..peers import restated_others
from ..peers.draws import generators, integers
from ..peers.restated_others import deepcore_distance


@pytest.mark.parametrize("n, d, high", [(2, 1, 3), (60, 2, 3), (150, 16, 5), (250, 40, 20)], ids=str)
@pytest.mark.parametrize("budget", [2, 9, 60, 300])
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("before", [0, 1, 7])
def test_index_for_index(n, d, high, budget, seed, before):
    x = integers(n, d, high)
    rng = np.random.default_rng(1)
    names = rng.permutation(3 * n)[:n]
    selected = rng.choice(names, min(before, n), replace=False)
    want = restated_others.deepcore(x, budget, seed, names, selected)
    state = generators()
    got = k_center_greedy(x, budget, deepcore_distance, "cpu", seed, names, selected)
    assert got.tolist() == want.tolist() and got.dtype == names.dtype
    assert generators() == state


def test_without_a_seed_the_generator_is_seeded_anew():
    np.random.seed(0)
    before = generators()
    k_center_greedy(integers(9, 2, 9), 2, deepcore_distance, "cpu")
    assert generators()[1] != before[1]


def test_what_the_peer_cannot_do():
    x = integers(20, 3, 9)
    np.random.seed(5)
    drawn = np.random.randint(0, 20)
    assert k_center_greedy(x, 1, deepcore_distance, "cpu", 5).tolist() == [drawn]
    assert k_center_greedy(x, 0, deepcore_distance, "cpu", 5).tolist() == []
    assert k_center_greedy(x, 0, deepcore_distance, "cpu", 5, already_selected=[4, 2]).tolist() == [2, 4]
    assert k_center_greedy(x[:1], 3, deepcore_distance, "cpu", 5).tolist() == [0]
    assert k_center_greedy(x, 2, deepcore_distance, "cpu", 5, index=[f"r{i}" for i in range(20)]).shape == (2,)


def test_forms_of_input(capfd):
    x = integers(40, 6, 9)
    want = k_center_greedy(x, 7, deepcore_distance, "cpu", 0)
    wide = torch.stack([x, x], 2).double()[:, :, 0].requires_grad_()
    assert not wide.is_contiguous()
    assert (k_center_greedy(wide, np.int64(7), deepcore_distance, torch.device("cpu"), 0, print_freq=1) == want).all()
    frozen = x.numpy().copy()
    frozen.flags.writeable = False
    assert (k_center_greedy(frozen, 7, deepcore_distance, "cpu", 0, already_selected=None) == want).all()
    got = k_center_greedy(x, 7, deepcore_distance, "cpu", 0, index=torch.arange(40) * 2)
    assert isinstance(got, torch.Tensor) and (got.numpy() == 2 * want).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("d", [1, 2, 16, 700])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_euclidean_metrics_are_recognised(d, dtype):
    like = torch.zeros(1, d, dtype=dtype)
    assert is_euclidean(deepcore_distance, like)
    assert is_euclidean(lambda a, b: torch.cdist(a.double(), b.double()), like)


def euclidean_dist(x, y):
    raise TypeError("addmm_() takes other arguments now")


@pytest.mark.parametrize("d", [2, 16, 700])
def test_other_metrics_are_not(d):
    like = torch.zeros(1, d)
    assert is_euclidean(euclidean_dist, like), "its name is enough where it fails"
    for other in (
        lambda a, b: torch.cdist(a, b, p=1),
        lambda a, b: torch.cdist(a, b) ** 2,
        lambda a, b: 1 - torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T,
        lambda a, b: torch.cdist(a, b)[0],
        lambda a, b: torch.cdist(a, b) * torch.nan,
        lambda a, b: 1 / 0,
        lambda a, b: None,
    ):
        assert not is_euclidean(other, like)


X = integers(6, 2, 9)


@pytest.mark.parametrize(
    "args, options, error, message",
    [
        ((X, -1, deepcore_distance), {}, ValueError, "Illegal budget size.*got -1"),
        ((X, 1.5, deepcore_distance), {}, TypeError, "budget must be an integer"),
        ((X.tolist(), 1, deepcore_distance), {}, TypeError, "matrix must be a torch.Tensor"),
        ((X.long().numpy(), 1, deepcore_distance), {}, TypeError, "matrix must be floating, got an ndarray of int64"),
        ((X[0], 1, deepcore_distance), {}, ValueError, "2-D"),
        ((X[:0], 1, deepcore_distance), {}, ValueError, "at least one row"),
        ((X, 1, "euclidean"), {}, TypeError, "metric must be callable"),
        ((X, 1, lambda a, b: torch.cdist(a, b, p=1)), {}, ValueError, "metric must be Euclidean.*<lambda>"),
        ((X, 1, deepcore_distance), {"index": [1, 2]}, ValueError, r"index must have shape \(6,\)"),
        ((X, 1, deepcore_distance), {"already_selected": [9]}, ValueError, "none of them"),
        ((X * torch.nan, 2, deepcore_distance), {}, ValueError, "6 of 6 rows are not finite"),
    ],
)
def test_bad_input(args, options, error, message):
    with pytest.raises(error, match=message):
        k_center_greedy(*args, device="cpu", random_seed=0, **options)


def test_install(monkeypatch):
    names = ["deepcore", "deepcore.methods", "deepcore.methods.kcentergreedy", "deepcore.methods.cal"]
    modules = [types.ModuleType(name) for name in names]
    modules[0].__path__ = modules[1].__path__ = []
    modules[2].k_center_greedy = modules[3].k_center_greedy = original = object()
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with deepcore.install() as replacement:
        assert len(replacement.places) == 2
        assert modules[2].k_center_greedy is modules[3].k_center_greedy is k_center_greedy
    assert modules[2].k_center_greedy is modules[3].k_center_greedy is original
    with pytest.raises(AttributeError, match="methods has no k_center_greedy"):
        deepcore.install(modules[2], modules[1])
    assert modules[2].k_center_greedy is original
