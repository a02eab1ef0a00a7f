"""Instability under views and under noise against its formulas."""

import numpy as np
import pytest
import torch

from patchcore_fast.scores import instability, noise_instability

from .test_rows import rand


def test_instability_is_the_formula():
    x, views = rand(50, 8), [rand(50, 8, seed=s) for s in (1, 2, 3)]
    want = np.mean([[np.linalg.norm(a - b) for a, b in zip(x.numpy(), v.numpy(), strict=True)] for v in views], 0)
    for form in (views, tuple(v.numpy() for v in views), torch.stack(views), np.stack([v.numpy() for v in views])):
        np.testing.assert_allclose(instability(x, form).numpy(), want, rtol=1e-6)
    assert torch.equal(instability(x, views[0]), instability(x, views[:1]))
    assert torch.equal(instability(x, x), torch.zeros(50))


def test_noise_measures_the_noise():
    far_apart = torch.cat([rand(3000, 64), 100 * rand(3000, 64, seed=1)])
    score = noise_instability(far_apart, 0.1, 4)
    # E||n|| = std sqrt(2) gamma(65/2) / gamma(64/2) for 64 columns, whatever the rows are.
    assert score[:3000].mean().item() == pytest.approx(0.7969, rel=2e-3)
    assert score[3000:].mean().item() == pytest.approx(0.7969, rel=2e-3)
