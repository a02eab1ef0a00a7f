"""compat.active_learning against the restated state machine of google/active-learning."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.random_projection import SparseRandomProjection

from patchcore_fast.compat import active_learning
from patchcore_fast.compat.active_learning import kCenterGreedy

from ..peers import restated_others


class Model:
    """A model with a transform of our choice."""

    def __init__(self, function):
        self.transform = function


def flat(x):
    return x.reshape(len(x), -1)


def twice_reversed(x):
    return 2 * flat(x)[:, ::-1]


def failing(x):
    raise RuntimeError("no transform today")


MODELS = [None, Model(flat), Model(twice_reversed), Model(failing)]


def integers(shape: tuple[int, ...], high: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.float64)


def outcome(batch, *args):
    try:
        return [int(row) for row in batch(*args)]
    except AssertionError:
        return "assertion"


@pytest.mark.parametrize("shape, high", [((1, 3), 5), ((12, 2), 2), ((40, 5, 2), 4), ((300, 8), 20)], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_three_calls_of_one_object(shape, high, seed):
    rng = np.random.default_rng(seed)
    x = integers(shape, high, seed)
    ours, theirs, seen = kCenterGreedy(x, None, 0), restated_others.ActiveLearning(x), []
    before = np.random.get_state()[1].tobytes(), np.random.get_state()[2]
    for _ in range(3):
        model = MODELS[rng.integers(4)]
        given = [[], list(seen), rng.permutation(len(x))[: rng.integers(len(x) + 1)].tolist()][rng.integers(3)]
        count = int(rng.choice([1, 2, len(x) // 2, len(x) + 2]))
        if theirs.nearest is None and not given and 0 in theirs.before:
            break  # the peer ends in a TypeError
        want = outcome(theirs.batch, model, given, count)
        got = outcome(lambda m, g, n: ours.select_batch(model=m, already_selected=g, N=n), model, given, count)
        assert got == want
        if want == "assertion":
            break
        assert np.allclose(ours.min_distances[:, 0], theirs.nearest, atol=1e-6)
        assert ours.already_selected is given
        seen += [row for row in got if row not in seen]
    assert (np.random.get_state()[1].tobytes(), np.random.get_state()[2]) == before


def test_starts_at_row_zero_and_continues_from_given_rows():
    x = np.array([[0.0], [1], [10], [4]])
    assert kCenterGreedy(x, None, 0).select_batch(model=None, already_selected=[], N=3) == [0, 2, 3]
    assert kCenterGreedy(x, None, 0).select_batch(model=None, already_selected=[2, -1], N=2) == [0, 1]


def test_second_call():
    x = np.array([[0.0], [1], [10], [4]])
    kept = kCenterGreedy(x, None, 0)
    assert kept.select_batch(model=None, already_selected=[], N=2) == [0, 2]
    assert kept.select_batch(model=None, already_selected=[], N=2) == [3, 1], "without a transform, centres stay"
    anew = kCenterGreedy(x, None, 0)
    assert anew.select_batch(model=Model(flat), already_selected=[], N=2) == [0, 2]
    assert anew.select_batch(model=Model(flat), already_selected=[], N=2) == [0, 2], "a transform starts anew"
    stuck = kCenterGreedy(x, None, 0)
    assert stuck.select_batch(model=Model(flat), already_selected=[2], N=1) == [0]
    assert stuck.select_batch(model=Model(flat), already_selected=[1], N=3) == [2, 2, 2], "2 was selected before"


@pytest.mark.parametrize("container", [list, tuple, np.array, torch.tensor], ids=lambda c: c.__name__)
def test_kinds_of_already_selected(container):
    x = integers((50, 4), 9)
    want = restated_others.ActiveLearning(x).batch(Model(flat), [4, 9], 12)
    got = kCenterGreedy(x, None, 0).select_batch(model=Model(flat), already_selected=container([4, 9]), N=np.int64(12))
    assert got == want and all(type(row) is int for row in got)


def test_several_new_rows_in_a_later_call_without_a_transform():
    x = integers((60, 3), 30)
    ours, theirs = kCenterGreedy(x, None, 0), restated_others.ActiveLearning(x)
    first = ours.select_batch(model=None, already_selected=[], N=5)
    assert first == theirs.batch(None, [], 5)
    given = [*first, 7, 8]
    assert ours.select_batch(model=None, already_selected=given, N=5) == theirs.batch(None, given, 5)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, torch.from_numpy], ids=["ndarray", "sparse", "tensor"])
def test_random_projection_as_a_model(form):
    dense = integers((200, 300), 5)
    projection = SparseRandomProjection(n_components="auto", eps=0.9, random_state=0).fit(dense)
    want = restated_others.ActiveLearning(dense).batch(projection, [], 30)
    sampler = kCenterGreedy(form(dense), 0, 0)
    assert sampler.select_batch(model=projection, already_selected=[], N=30) == want
    assert sampler.features.shape == (200, projection.n_components_)


@pytest.mark.parametrize("metric", ["euclidean", "l2", "sqeuclidean"])
def test_metrics(metric):
    x = integers((80, 4), 9)
    sampler = kCenterGreedy(x, None, 0, metric=metric)
    assert sampler.select_batch(model=None, already_selected=[3], N=9) == restated_others.ActiveLearning(x).batch(
        None, [3], 9
    )
    plain = kCenterGreedy(x, None, 0)
    plain.select_batch(model=None, already_selected=[3], N=9)
    power = 2 if metric == "sqeuclidean" else 1
    assert np.allclose(sampler.min_distances, plain.min_distances**power)


def test_attributes_and_silence(capfd):
    x = integers((20, 3, 2), 9).astype(np.int64)
    sampler = kCenterGreedy(x, "labels", 5)
    assert (sampler.name, sampler.n_obs, sampler.y, sampler.seed) == ("kcenter", 20, "labels", 5)
    assert sampler.flat_X.shape == (20, 6) and sampler.X is x and sampler.min_distances is None
    assert sampler.to_dict() is None
    sampler.update_distances([3, 4])
    assert sampler.min_distances.shape == (20, 1) and sampler.min_distances[3, 0] == 0
    assert sampler.select_batch_(None, [], 2, unused=1) == kCenterGreedy(x, 0, 0).select_batch_(None, [3, 4], 2)
    assert sampler.select_batch_(None, [], 0) == []
    sampler.min_distances = None
    assert sampler.min_distances is None
    assert capfd.readouterr() == ("", "")


X = integers((6, 2), 9)


def pick(*args):
    return kCenterGreedy(X, 0, 0).select_batch_(*args)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: kCenterGreedy([[1.0]], 0, 0), TypeError, "X must be an ndarray"),
        (lambda: kCenterGreedy(X, 0, 0, "cosine"), ValueError, "one of euclidean, l2, sqeuclidean, got 'cosine'"),
        (lambda: pick(None, None, 1), TypeError, "already_selected must be row numbers"),
        (lambda: pick(None, [6], 1), ValueError, "already_selected.* -6..5, got 6"),
        (lambda: pick(None, [0.5], 1), TypeError, "must be an integer"),
        (lambda: pick(None, [], -1), ValueError, "N must lie in 0"),
        (lambda: pick(None, [0, 1], 7), AssertionError, "row 0 is selected already"),
        (lambda: kCenterGreedy(X / 0.0, 0, 0).select_batch_(None, [], 1), ValueError, "6 of 6 rows are not finite"),
        (lambda: pick(Model(len), [], 1), ValueError, "features must be"),
        (lambda: pick(Model(lambda x: None), [], 1), TypeError, "features must be numbers, got an array of object"),
        (lambda: kCenterGreedy(X + 1j, 0, 0).select_batch_(None, [], 1), TypeError, "real"),
        (lambda: setattr(kCenterGreedy(X, 0, 0), "min_distances", 1), ValueError, "only be set to None"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_install(monkeypatch):
    package, module, constants = (
        types.ModuleType(f"sampling_methods{end}") for end in ("", ".kcenter_greedy", ".constants")
    )
    package.__path__ = []
    module.kCenterGreedy = original = type("kCenterGreedy", (), {})
    for m in (package, module):
        monkeypatch.setitem(sys.modules, m.__name__, m)
    with active_learning.install() as replacement:
        assert replacement.places == ["sampling_methods.kcenter_greedy.kCenterGreedy"]
        assert module.kCenterGreedy is kCenterGreedy
    assert module.kCenterGreedy is original
    constants.AL_MAPPING = {"kcenter": original}
    monkeypatch.setitem(sys.modules, constants.__name__, constants)
    with pytest.raises(RuntimeError, match="AL_MAPPING"):
        active_learning.install()
    with pytest.raises(AttributeError, match="has no kCenterGreedy"):
        active_learning.install(constants)
    assert module.kCenterGreedy is original
