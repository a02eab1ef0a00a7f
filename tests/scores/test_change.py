"""proxy_change: the restated loop's values, whatever the chunk; what it is high for; bad input."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from patchcore_fast.scores import k_means, proxy_change
from patchcore_fast.scores.proxy import Head


def clumps(n=240, seed=0):
    """Rows in three clumps, and their numbers."""
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 3
    centres = torch.tensor([[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]])
    return centres[label] + 0.3 * torch.randn(n, 4, generator=g), label


def restated(x, label, steps, batch, seed):
    """Mean change of the softmax outputs from step to step, all kept."""
    generator = torch.Generator().manual_seed(seed)
    head = Head(x.shape[1], 64, int(label.max()) + 1, 5e-3, generator, torch.device("cpu"))
    z = ((x.double() - x.double().mean(0)) / x.double().std(0, unbiased=False)).float()

    def outputs():
        return ((z @ head.w1 + head.b1).relu() @ head.w2 + head.b2).softmax(1).clone()

    kept, order = [outputs()], torch.randperm(len(x), generator=generator)
    for step in range(steps):
        own = order[(torch.arange(batch) + step * batch) % len(x)]
        head.step(z[own], label[own], batch)
        kept.append(outputs())
    return sum((b - a).norm(dim=1) for a, b in pairwise(kept)) / steps


def test_is_the_mean_change_of_the_outputs():
    x, label = clumps()
    for steps, batch in ((1, 240), (5, 100), (7, 1024)):
        found = proxy_change(x, labels=label, steps=steps, batch_size=batch, seed=3)
        want = restated(x, label, steps, min(batch, 240), 3)
        assert found.shape == (240,) and found.dtype == torch.float32
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-6)
    assert float(found.min()) > 0 and float(found.max()) < 2**0.5


def test_repeats_and_does_not_depend_on_the_chunk():
    x, label = clumps()
    found = proxy_change(x, labels=label)
    for chunk in (1, 50, 10**6):
        assert torch.equal(proxy_change(x.numpy(), labels=label.numpy(), chunk_size=chunk), found)
    assert not torch.equal(proxy_change(x, labels=label, seed=1), found)


def test_own_labels_are_those_of_k_means_on_the_same_draws():
    x, _ = clumps()
    label = k_means(x, 5, seed=0).labels
    own = proxy_change(x, clusters=5)
    assert own.shape == (240,) and bool(own.isfinite().all()) and len(label.unique()) == 5
    assert torch.equal(own, proxy_change(x, clusters=5))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "proxy_change: steps must lie in 1"),
        ({"labels": [1] * 240}, TypeError, "labels must be an ndarray or torch.Tensor"),
        ({"labels": np.zeros(240, int)}, ValueError, "at least two classes are wanted, got 1 in 240 rows"),
        ({"labels": np.zeros(9, int)}, ValueError, r"labels must have shape \(240,\)"),
        ({"clusters": 1}, ValueError, "clusters must lie in 2"),
        ({"batch_size": 0}, ValueError, "batch_size must lie in 1"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be finite and > 0"),
    ],
)
def test_bad_input_is_named(options, error, message):
    with pytest.raises(error, match=message):
        proxy_change(clumps()[0], **options)
