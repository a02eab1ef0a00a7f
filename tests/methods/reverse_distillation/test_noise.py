"""Scorer "noising" on reverse distillation against its formula; where the noise goes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from patchcore_fast.methods.reverse_distillation.loss import distance
from patchcore_fast.methods.reverse_distillation.noise import ROWS, LayerNoise, gradient, sample
from patchcore_fast.scorers import NoiseProposal


def made(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


TEACHER = [made(2, 6, 4, 3), made(2, 10, 2, 2)]
STUDENT = [t + 0.3 * made(*t.shape, 1)[..., 0] for t in TEACHER]
NORMAL = [made(50, 6), made(40, 10)]


def test_the_score_is_the_mean_over_noisy_copies_of_the_teachers_features():
    noise = LayerNoise(NORMAL, 0.5, 4, 7)
    for t, s, rows, got in zip(TEACHER, STUDENT, NORMAL, noise(TEACHER, STUDENT), strict=True):
        proposal = NoiseProposal(rows, 0.5, 4, 7)
        for b in range(t.shape[0]):
            for i in range(t.shape[2]):
                for j in range(t.shape[3]):
                    x = t[b, :, i, j].clone().requires_grad_()
                    y = s[b, :, i, j]
                    apart = 1 - (x @ y) / (x.norm() * y.norm())
                    (g,) = torch.autograd.grad(apart, x)
                    spread = proposal.spread(x.detach()[None], g[None])[0]
                    copies = [x.detach() + sign * spread * z for z in proposal.table for sign in (1, -1)]
                    want = sum(1 - (c @ y) / (c.norm() * y.norm()) for c in copies) / 4
                    assert float(got[b, i, j]) == pytest.approx(float(want), rel=1e-5)


def test_without_noise_it_is_the_distance():
    for got, t, s in zip(LayerNoise(NORMAL, 0.0, 2, 0)(TEACHER, STUDENT), TEACHER, STUDENT, strict=True):
        assert torch.allclose(got, distance(t, s), atol=1e-6)


def test_the_gradient_is_that_of_the_distance_and_nothing_where_maps_are_zero():
    t = TEACHER[0].clone().requires_grad_()
    distance(t, STUDENT[0]).sum().backward()
    assert t.grad is not None
    length = t.detach().norm(dim=1, keepdim=True)
    assert torch.allclose(gradient(t.detach(), STUDENT[0]), t.grad * length, atol=1e-5)
    nothing = torch.zeros(1, 6, 1, 1)
    assert bool((gradient(nothing, nothing) == 0).all())
    assert bool(torch.isfinite(LayerNoise(NORMAL[:1], 0.5, 2, 0)([nothing], [nothing])[0]).all())


def test_a_sample_of_normal_features_does_not_depend_on_batches():
    images = [made(6, 5, 8, 8), made(6, 3, 4, 4)]
    whole = sample([images], 6, 3)
    parts = sample([[m[:4] for m in images], [m[4:] for m in images]], 6, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert [tuple(m.shape) for m in whole] == [(6 * 64, 5), (6 * 16, 3)]  # there are no more
    assert len(sample([[made(4, 2, 32, 32)]], 4, 0)[0]) == ROWS
    assert not torch.equal(sample([[images[0]]], 60, 3)[0], sample([[images[0]]], 60, 4)[0])
