"""clustering_heads: its gradient is autograd's, it finds blobs, it repeats."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from patchcore_fast.scores import clustering_heads, heads

from .test_difficulty import blobs


def loss(student, teachers, x, pair, shares, beta):
    """-mean of w pmi both ways, heads apart: student [E, H, C], teachers [B, H, C] of both images of each pair."""
    said = [torch.einsum("be,ehc->bhc", x[rows], student).div(heads._TEMPERATURE).softmax(2) for rows in pair]
    trust = (teachers[0] * teachers[1]).sum(2).mean(1, keepdim=True)
    ways = [((said[i] * teachers[1 - i]) ** beta / shares).sum(2).log() for i in (0, 1)]
    return -(trust * (ways[0] + ways[1]) / 2).mean(0).sum()


@pytest.mark.parametrize("beta", [0.6, 1.0])
def test_the_gradient_is_autograds(beta):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator)
    trained = heads._Heads(x, 3, 4, beta, 0.1, generator)
    for _ in range(3):  # so that students and teachers differ
        trained.step(*(torch.randint(12, (8,), generator=generator) for _ in range(2)), 1.0)
    pair = [torch.randint(12, (8,), generator=generator) for _ in range(2)]
    student = trained._student.clone().view(6, 3, 4).requires_grad_()
    said = [trained.teachers(rows) for rows in pair]
    shares = trained._shares * heads._KEPT + (1 - heads._KEPT) * torch.cat(said).mean(0)
    (want,) = torch.autograd.grad(loss(student, said, trained._x, pair, shares, beta), student)
    trained.step(*pair, 1.0)
    torch.testing.assert_close(trained.gradient, want.flatten(1), rtol=1e-4, atol=1e-6)


def test_blobs_are_found_again_by_the_same_seed():
    x, labels = blobs(120, 12, 4, noise=0.3, seed=5)
    state = torch.get_rng_state()
    found, p = clustering_heads(x, 4, epochs=60, seed=1)
    assert adjusted_rand_score(labels, found) > 0.99
    assert p.shape == (120, 4) and torch.equal(p.argmax(1), found)
    torch.testing.assert_close(p.sum(1), torch.ones(120))
    again = clustering_heads(x.numpy(), 4, epochs=60, seed=1)
    assert torch.equal(again.labels, found) and torch.equal(again.probabilities, p)
    assert not torch.equal(clustering_heads(x, 4, epochs=60, seed=2).probabilities, p)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_head_that_puts_all_images_together_is_not_taken(seed):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))  # here it has the lowest loss
    assert clustering_heads(x, 2, seed=seed).labels.unique().numel() == 2


def test_a_shift_and_a_scale_change_nothing():
    x, labels = blobs(60, 8, 3, noise=0.3, seed=5)
    found = clustering_heads(1e3 * x + 1e4, 3, heads=4)
    assert adjusted_rand_score(labels, found.labels) > 0.99


def test_neighbours_are_other_images():
    x = torch.zeros(9, 2)  # all at one place
    near = heads._neighbours(x, 3)
    assert near.shape == (9, 3) and not bool((near == torch.arange(9)[:, None]).any())
    x = torch.arange(6.0)[:, None].square()
    assert heads._neighbours(x, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 4], [3, 5], [4, 3]]


@pytest.mark.parametrize(
    "change, words",
    [({"clusters": 1}, "clusters must"), ({"clusters": 6}, "6 clusters need at least 12 images, got 10"),
     ({"beta": 0.5}, "beta must lie in"), ({"neighbours": 10}, r"neighbours must.*10 images"),
     ({"embeddings": torch.ones(10, 3)}, "10 images are all alike"),
     ({"embeddings": torch.full((10, 3), torch.nan)}, "embeddings .*finite"),
     ({"embeddings": torch.rand(10)}, "embeddings must"), ({"heads": 0}, "heads must"), ({"epochs": 0}, "epochs must")],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        clustering_heads(**{"embeddings": torch.rand(10, 3), "clusters": 2, "epochs": 1, **change})
