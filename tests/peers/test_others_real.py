"""The real selections of ind_knn_ad, google/active-learning, hcw-00, DeepCore and SoftPatch against our drop-ins.

How they are found: repositories.py. For google/active-learning and hcw-00 the same variable names one or the other.
"""

import importlib.machinery
import importlib.util
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from patchcore_fast.compat import active_learning, deepcore, indad, softpatch

from . import restated_others
from .draws import generators, integers, seed_all
from .repositories import checkout, peer_module

CPU = torch.device("cpu")


@pytest.fixture
def their_indad(monkeypatch):
    """indad.utils imports two packages for its loggers and exports; where they are missing, empty ones stand in."""
    for package, name in (("loguru", "logger"), ("onnxruntime", "InferenceSession")):
        if importlib.util.find_spec(package) is None:
            stand_in = types.ModuleType(package)
            stand_in.__spec__ = importlib.machinery.ModuleSpec(package, None)  # torch looks for it
            setattr(stand_in, name, None)
            monkeypatch.setitem(sys.modules, package, stand_in)
    return peer_module("indad.utils")


@pytest.mark.filterwarnings("ignore:get_coreset_idx_randomp. features are not projected")
@pytest.mark.parametrize("n, d, high, k", [(1, 2, 3, 1), (60, 3, 3, 70), (400, 16, 6, 150), (600, 40, 20, 60)], ids=str)
def test_indad(their_indad, n, d, high, k):
    x = integers(n, d, high)
    np.random.seed(3)
    want, state = their_indad.get_coreset_idx_randomp(x, k, float16=False, force_cpu=True), generators()
    np.random.seed(3)
    with indad.install():
        got = their_indad.get_coreset_idx_randomp(x, k, float16=False, force_cpu=True)
    assert got.dtype == want.dtype and got.tolist() == want.tolist()
    assert generators() == state
    assert restated_others.indad(x, k).tolist() == want.tolist()
    half = their_indad.get_coreset_idx_randomp(x, k, force_cpu=True)
    assert restated_others.indad(x, k, float16=True).tolist() == half.tolist()


def test_indad_projected(their_indad):
    x = torch.randn(500, 300, generator=torch.Generator().manual_seed(0))
    np.random.seed(3)
    want, state = their_indad.get_coreset_idx_randomp(x, 100, float16=False, force_cpu=True), generators()
    np.random.seed(3)
    got = indad.get_coreset_idx_randomp(x, 100, float16=False, force_cpu=True)
    assert generators() == state
    assert got.tolist() == want.tolist()  # no two keys of these rows come within float32 rounding


@pytest.fixture
def their_class(monkeypatch, capsys):
    """np.product is gone from NumPy 2, and the class formats an array of one element, which NumPy >= 2.4 refuses."""
    monkeypatch.setattr(np, "product", np.prod, raising=False)
    module = peer_module("sampling_methods.kcenter_greedy")
    monkeypatch.setattr(module, "max", lambda distances: float(np.max(distances)), raising=False)
    return module.kCenterGreedy


class Flat:
    def transform(self, x):
        return x.reshape(len(x), -1)


@pytest.mark.parametrize("shape, high", [((12, 2), 2), ((40, 5, 2), 4), ((200, 8), 20)], ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_active_learning(their_class, shape, high, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, high, shape).astype(np.float64)
    ours, theirs, seen = active_learning.kCenterGreedy(x, None, 0), their_class(x, None, 0), []
    for call in range(3):
        model = [None, Flat()][rng.integers(2)]
        given = [[], list(seen), rng.permutation(len(x))[: rng.integers(len(x))].tolist()][rng.integers(3)]
        new = {row for row in given if row not in theirs.already_selected}
        if (model is None and call and len(new) > 1) or (not given and 0 in theirs.already_selected):
            break  # the peer goes on with a matrix in place of minimum distances, or with none at all
        count = int(rng.choice([1, 2, len(x) // 2, len(x) + 2]))
        outcomes = []
        for sampler in (theirs, ours):
            try:
                batch = sampler.select_batch(model=model, already_selected=given, N=count)
                outcomes.append([int(row) for row in batch])
            except AssertionError:
                outcomes.append("assertion")
        assert outcomes[0] == outcomes[1]
        if outcomes[0] == "assertion":
            break
        assert np.allclose(theirs.min_distances, ours.min_distances, atol=1e-5)
        seen += [row for row in outcomes[0] if row not in seen]


def test_active_learning_installed(their_class):
    module = sys.modules["sampling_methods.kcenter_greedy"]
    with active_learning.install():
        assert module.kCenterGreedy is active_learning.kCenterGreedy
    assert module.kCenterGreedy is their_class


@pytest.mark.parametrize("n, d, high", [(2, 1, 3), (60, 2, 3), (150, 16, 5), (250, 40, 20)], ids=str)
@pytest.mark.parametrize("budget", [2, 9, 60, 300])
@pytest.mark.parametrize("before", [0, 1, 7])
def test_deepcore(monkeypatch, n, d, high, budget, before):
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # gone from NumPy 2.4
    module = peer_module("deepcore.methods.kcentergreedy")
    x, rng = integers(n, d, high), np.random.default_rng(1)
    names = rng.permutation(3 * n)[:n]
    args = x, budget, module.euclidean_dist, "cpu", 5, names, rng.choice(names, min(before, n), replace=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This overload of addmm_")
        want, state = module.k_center_greedy(*args), generators()
    with deepcore.install():
        got = module.k_center_greedy(*args)
    assert got.tolist() == want.tolist() and got.dtype == want.dtype
    assert generators() == state


@pytest.mark.parametrize(
    "name", ["GreedyCoresetSampler", "ApproximateGreedyCoresetSampler", "WeightedGreedyCoresetSampler"]
)
@pytest.mark.parametrize("kind", ["none", "0/1", "all zero", "powers", "float"])
@pytest.mark.parametrize("n, high", [(7, 9), (200, 8), (400, 100)], ids=str)
def test_softpatch(monkeypatch, name, kind, n, high):
    monkeypatch.syspath_prepend(str(checkout("softpatch") / "src"))
    module = importlib.import_module("sampler")
    x, rng = integers(n, 128, high), np.random.default_rng(5)
    weight = {
        "none": None,
        "0/1": torch.from_numpy(rng.integers(0, 2, n)),
        "all zero": torch.zeros(n, dtype=torch.int64),
        "powers": torch.from_numpy(2.0 ** rng.integers(-2, 3, n)).float(),
        "float": torch.from_numpy(rng.random(n, dtype=np.float32)),
    }[kind]
    results = []
    for install in (False, True):
        replacement = softpatch.install(module) if install else None
        seed_all()
        sampler = getattr(module, name)(0.3, CPU)
        if name.startswith("Weighted"):
            sampler.set_sampling_weight(weight)
        rows, indices = sampler.run(x.numpy())
        results.append((rows, indices.tolist(), generators(), type(sampler)))
        if replacement is not None:
            replacement.undo()
    (rows, indices, state, theirs), (our_rows, our_indices, our_state, ours) = results
    assert theirs is not ours
    assert indices == our_indices and np.array_equal(rows, our_rows) and state == our_state
