"""train_proxy against autograd and tables, against `difficulty`, and against itself stopped half-way."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from patchcore_fast.scores import Dynamics, difficulty, train_proxy
from patchcore_fast.scores.dynamics import KEPT

from .test_difficulty import blobs


def restated(x, labels, hidden, epochs, batch, rate, seed):
    """Softmax outputs of every row in every epoch, [T, N, C] float64, by torch.nn and torch.optim in float64."""
    generator = torch.Generator().manual_seed(seed)
    n, d = x.shape
    w1 = (torch.randn(d, hidden, generator=generator) * (2 / d) ** 0.5).double().requires_grad_()
    w2 = (torch.randn(hidden, int(labels.max()) + 1, generator=generator) * hidden**-0.5).double().requires_grad_()
    b1, b2 = (torch.zeros(w.shape[1], dtype=torch.float64, requires_grad=True) for w in (w1, w2))
    adam = torch.optim.Adam([w1, b1, w2, b2], lr=rate)
    standard = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    p = torch.empty(epochs, n, w2.shape[1], dtype=torch.float64)
    for epoch in range(epochs):
        for rows in torch.randperm(n, generator=generator).split(batch):
            logits = (standard[rows] @ w1 + b1).relu() @ w2 + b2
            p[epoch, rows] = logits.detach().softmax(1)
            adam.zero_grad()
            (torch.nn.functional.cross_entropy(logits, labels[rows], reduction="sum") / batch).backward()
            adam.step()
    return p.numpy()


def test_trajectories_are_those_of_autograd():
    x, labels = blobs(150, 8, 4, noise=1.0)
    found = train_proxy(x, labels, hidden=12, epochs=5, batch_size=40, learning_rate=0.01, seed=3)
    p, y = restated(x, labels, 12, 5, 40, 0.01, 3), labels.numpy()
    own = p[:, np.arange(150), y]
    others = p.copy()
    others[:, np.arange(150), y] = -1
    margin = own - others.max(2)
    close = {"rtol": 2e-4, "atol": 2e-5}
    np.testing.assert_allclose(found.confidence, own, **close)
    np.testing.assert_allclose(found.margin, margin, **close)
    np.testing.assert_allclose(found.loss, -np.log(own), **close)
    np.testing.assert_allclose(found.error, np.linalg.norm(p - np.eye(4)[y], axis=2), **close)
    clear = np.abs(margin) > 1e-4
    assert np.array_equal(found.correct.numpy()[clear], margin[clear] > 0) and found.epochs == 5
    np.testing.assert_allclose(found.aum, margin.mean(0), **close)
    np.testing.assert_allclose(found.el2n, np.linalg.norm(p - np.eye(4)[y], axis=2)[:3].mean(0), **close)


@pytest.mark.parametrize("epochs", [1, 4])
def test_difficulty_is_what_is_kept(epochs):
    x, labels = blobs(200, 6, 3)
    one = difficulty(x, labels=labels, epochs=epochs, seed=2)
    other = train_proxy(x, labels, epochs=epochs, seed=2, chunk_size=50)
    for name in ("aum", "forgetting", "el2n"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(other.score("aum"), one.score)


def test_forgetting_counts():
    right = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)
    zeros = torch.zeros(4, 5)
    found = Dynamics(zeros, zeros, zeros, zeros, torch.from_numpy(right.T.copy()))
    want = [sum(a and not b for a, b in pairwise(row)) if row.any() else 4 for row in right]
    assert found.forgetting.tolist() == want == [0, 2, 4, 1, 0]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_goes_on_bit_for_bit(stop, dtype):
    x, labels = blobs(90, 5, 3)
    options = {"seed": 4, "hidden": 7, "batch_size": 32, "dtype": dtype}
    states = []
    whole = train_proxy(x, labels, epochs=4, on_epoch=states.append, **options)
    assert [int(state["epoch"]) for state in states] == [1, 2, 3, 4]
    copied = {name: tensor.clone() for name, tensor in states[stop - 1].items()}  # nothing later was written to it
    shorter: list[dict[str, torch.Tensor]] = []
    train_proxy(x, labels, epochs=stop, on_epoch=shorter.append, **options)
    for state in (copied, shorter[-1]):
        again = train_proxy(x, labels, epochs=4, state=state, **options)
        for name in KEPT:
            assert torch.equal(getattr(again, name), getattr(whole, name))
    assert whole.margin.dtype == getattr(torch, dtype) and whole.correct.dtype == torch.bool
    done = train_proxy(x, labels, epochs=4, state=states[-1], on_epoch=lambda state: pytest.fail("done"), **options)
    assert torch.equal(done.loss, whole.loss)


@pytest.mark.parametrize(
    "change, words",
    [({"seed": 1}, "state is of seed 0, got 1"), ({"hidden": 8}, "hidden 7, got 8"), ({"epochs": 1}, "has 2 epochs"),
     ({"learning_rate": 0.1}, "other learning_rate"), ({"dtype": "float16"}, "dtype 32, got 16"),
     ({"x": 2.0}, "other features"), ({"labels": 1}, "other labels"), ({"drop": "first"}, "no tensor first"),
     ({"drop": "margin"}, "no tensor margin")],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_state_of_another_run_is_refused(change, words):
    x, labels = blobs(40, 5, 3)
    options = {"hidden": 7, "epochs": 3, "seed": 0, "learning_rate": 0.01}
    states: list[dict[str, torch.Tensor]] = []
    train_proxy(x, labels, **{**options, "epochs": 2}, on_epoch=states.append)
    state = {name: value for name, value in states[-1].items() if name != change.get("drop")}
    options |= {name: value for name, value in change.items() if name in options or name == "dtype"}
    labels = labels if "labels" not in change else labels.roll(1)
    with pytest.raises(ValueError, match=words):
        train_proxy(x * change.get("x", 1.0), labels, state=state, **options)


def test_mean_of_scores():
    x, labels = blobs(60, 5, 3)
    found = train_proxy(x, labels, epochs=4)
    scores = {name: found.score(name).numpy().astype(np.float64) for name in ("aum", "forgetting", "el2n")}
    ranks = np.mean([(rankdata(s) - 1) / 59 for s in scores.values()], axis=0)
    np.testing.assert_allclose(found.score("mean"), ranks, atol=1e-6)
    two = np.mean([(s - s.min()) / np.ptp(s) for s in (scores["aum"], scores["el2n"])], axis=0)
    np.testing.assert_allclose(found.mean(["aum", "el2n"], "range"), two, atol=1e-6)
    same = torch.ones(2, 3)
    flat = Dynamics(same, same, same, same, same.bool())
    assert flat.mean(["aum"]).tolist() == [0.5] * 3 and flat.mean(["aum"], "range").tolist() == [0.0] * 3
    for wrong in (lambda: found.score("loss"), lambda: found.mean(["loss"]), lambda: found.mean([]),
                  lambda: found.mean("aum"), lambda: found.mean(["aum"], "max")):  # fmt: skip
        with pytest.raises(ValueError, match="must be"):
            wrong()


def test_what_is_refused():
    x, labels = blobs(20, 3, 2)
    for change, words in (({"labels": labels[:-1]}, "labels must have shape"), ({"labels": labels * 0}, "two classes"),
                          ({"epochs": 0}, "epochs must"), ({"dtype": "int8"}, "dtype must"),
                          ({"features": x / 0}, "finite")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            train_proxy(**{"features": x, "labels": labels, **change})
    with pytest.raises(TypeError, match="state must be a dictionary"):
        train_proxy(x, labels, state=3)  # type: ignore[arg-type]
