"""difficulty against torch.nn, torch.optim and tables of rows by epochs: everything that it does without."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from patchcore_fast.scores import difficulty, k_means
from patchcore_fast.scores.proxy import Head


def blobs(n, d=32, classes=10, noise=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, d, generator=generator)
    return centres[labels] + noise * torch.randn(n, d, generator=generator), labels


def restated(x, labels, hidden, epochs, batch, rate, early, seed):
    """The same draws, by autograd and a table of every row in every epoch."""
    generator = torch.Generator().manual_seed(seed)
    n, d = x.shape
    classes = int(labels.max()) + 1
    first, second = torch.nn.Linear(d, hidden), torch.nn.Linear(hidden, classes)
    with torch.no_grad():
        first.weight.copy_((torch.randn(d, hidden, generator=generator) * (2 / d) ** 0.5).t())
        second.weight.copy_((torch.randn(hidden, classes, generator=generator) / hidden**0.5).t())
        first.bias.zero_()
        second.bias.zero_()
    network = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    adam = torch.optim.Adam(network.parameters(), lr=rate)
    standard = ((x.double() - x.double().mean(0)) / x.double().std(0, correction=0)).float()
    p = np.empty((epochs, n, classes))
    for epoch in range(epochs):
        for rows in torch.randperm(n, generator=generator).split(batch):
            logits = network(standard[rows])
            p[epoch, rows.numpy()] = logits.detach().softmax(1).numpy()
            adam.zero_grad()
            (torch.nn.functional.cross_entropy(logits, labels[rows], reduction="sum") / batch).backward()
            adam.step()
    aum, forgetting, el2n = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        y = int(labels[i])
        history = []
        for epoch in range(epochs):
            q = p[epoch, i]
            margin = q[y] - max(q[c] for c in range(classes) if c != y)
            aum[i] += margin / epochs
            history.append(margin > 0)
            if epoch < early:
                el2n[i] += np.linalg.norm(q - np.eye(classes)[y]) / early
        forgotten = sum(a and not b for a, b in pairwise(history))
        forgetting[i] = forgotten if any(history) else epochs
    return aum, forgetting, el2n


@pytest.mark.parametrize("epochs, early", [(5, None), (6, 1)])
def test_difficulty_is_the_training_dynamics(epochs, early):
    torch_state = torch.get_rng_state()
    x, labels = blobs(310, 12, 5)
    x = 10 * x + 50
    found = difficulty(
        x, labels=labels, hidden=16, epochs=epochs, batch_size=64, learning_rate=0.01, early_epochs=early, seed=3
    )
    aum, forgetting, el2n = restated(x, labels, 16, epochs, 64, 0.01, early or 3, 3)
    torch.set_rng_state(torch_state)  # torch.nn drew from it
    np.testing.assert_allclose(found.aum.numpy(), aum, atol=2e-4)
    np.testing.assert_allclose(found.el2n.numpy(), el2n, atol=2e-4)
    # A margin within rounding of zero could fall either way.
    assert (found.forgetting.numpy() != forgetting).mean() <= 0.01
    assert len(set(forgetting)) >= 3 and forgetting.max() == epochs
    assert torch.equal(found.score, -found.aum)


def test_gradient_is_autograds():
    x, labels = blobs(40, 7, 4)
    head = Head(7, 9, 4, 0.01, torch.Generator().manual_seed(0), torch.device("cpu"))
    w1, b1, w2, b2 = (t.clone().requires_grad_() for t in (head.w1, head.b1, head.w2, head.b2))
    loss = torch.nn.functional.cross_entropy((x @ w1 + b1).relu() @ w2 + b2, labels, reduction="sum") / 64
    want = torch.autograd.grad(loss, [w1, b1, w2, b2])
    head.step(x, labels, 64)
    torch.testing.assert_close(head.gradient, torch.cat([g.flatten() for g in want]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n", [2000, 12000])
def test_flipped_labels_are_found(n):
    x, labels = blobs(n, 32, 10)
    generator = torch.Generator().manual_seed(1)
    flipped = torch.rand(n, generator=generator) < 0.1
    shown = torch.where(flipped, (labels + torch.randint(1, 10, (n,), generator=generator)) % 10, labels)
    found = difficulty(x, labels=shown)
    assert roc_auc_score(flipped, found.score) > 0.9
    assert roc_auc_score(flipped, found.el2n) > 0.9
    assert roc_auc_score(flipped, found.forgetting) > 0.8
    assert bool((found.aum.abs() <= 1).all()) and bool((found.el2n >= 0).all())
    assert float(found.el2n.max()) <= 2**0.5 + 1e-6
    assert set(found.forgetting.tolist()) <= {0.0, 1.0, 2.0, 4.0}


def test_pseudo_labels_find_what_lies_between_clusters():
    x, labels = blobs(3000, 16, 6, noise=0.15)
    centres = torch.stack([x[labels == c].mean(0) for c in range(6)])
    between = (centres[torch.arange(60) % 6] + centres[(torch.arange(60) + 1) % 6]) / 2
    found = difficulty(torch.cat([x, between]), clusters=6)
    wanted = torch.cat([torch.zeros(3000), torch.ones(60)])
    assert roc_auc_score(wanted, found.score) > 0.9


def test_labels_need_not_be_consecutive():
    x, labels = blobs(400, 8, 5)
    want = difficulty(x, labels=labels)
    for same in (labels.int(), (labels * 1000 + 7).numpy(), labels.to(torch.uint8).numpy()):
        assert torch.equal(difficulty(x, labels=same).aum, want.aum)


def test_given_clusters_equal_own_clusters_but_for_the_draws():
    x, _ = blobs(600, 8, 5, noise=0.5)
    own = difficulty(x, clusters=5, seed=2).aum
    given = difficulty(x, labels=k_means(x, 5, seed=2).labels, seed=2).aum
    assert torch.corrcoef(torch.stack([own, given]))[0, 1] > 0.5


def test_constant_and_huge_columns():
    x, labels = blobs(500, 8, 4, noise=0.5)
    want = difficulty(x, labels=labels).aum
    scaled = x.double() * torch.logspace(-30, 30, 8, dtype=torch.float64)
    torch.testing.assert_close(difficulty(scaled, labels=labels).aum, want, rtol=0, atol=1e-3)
    constant = torch.cat([x, torch.full((500, 1), 0.1)], 1)
    found = difficulty(constant, labels=labels)
    assert bool(found.aum.isfinite().all()) and float(found.aum.mean()) > 0.3
