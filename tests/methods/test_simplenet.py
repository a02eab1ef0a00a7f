"""SimpleNet against its formulas written out, and what it takes of PatchCore's path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from patchcore_fast.config.methods import SimpleNetSettings
from patchcore_fast.features import Backbone, FeatureExtractor
from patchcore_fast.methods import make_method
from patchcore_fast.methods.simplenet import adapter, discriminator, loss_of, rows_of

from .tiny import TINY, config, images

SHORT = SimpleNetSettings(epochs=1, steps=1, batch_size=4)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(
    x: torch.Tensor, noise: torch.Tensor, w: list[torch.Tensor], margin: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and D's outputs of features [B, D], in single operations: adapter, D's first layer, norm, last layer."""
    a, a0, b, b0, scale, shift, c = w
    y = x @ a.T + a0
    z = torch.cat([y, y + noise]) @ b.T + b0
    z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() * scale + shift
    d = torch.where(z > 0, z, 0.2 * z) @ c[0]
    n = len(x)
    zero = torch.zeros(())
    return (torch.maximum(margin - d[:n], zero)).mean() + torch.maximum(margin + d[n:], zero).mean(), d


def test_networks_loss_gradients_and_a_step_are_those_of_the_formulas():
    torch.manual_seed(3)
    adapt, tell = adapter(9).double(), discriminator(9).double()  # rounding hides nothing
    model = make_method("simplenet", config(), SHORT)
    optimizers = model._optimizers({"adapter": adapt, "discriminator": tell})
    parameters = [*adapt.parameters(), *tell.parameters()]
    assert [tuple(p.shape) for p in parameters] == [(9, 9), (9,), (6, 9), (6,), (6,), (6,), (1, 6)]
    w = [p.detach().double().requires_grad_() for p in parameters]
    x, noise = numbers(40, 9).double(), 0.5 * numbers(40, 9, seed=1).double()
    wanted, d = plain(x, noise, w, 0.5)
    wanted.backward()
    with torch.no_grad():
        torch.testing.assert_close(
            tell.train()(torch.cat([adapt(x), adapt(x) + noise]))[:, 0], d, rtol=1e-9, atol=1e-12
        )
    loss, shares = loss_of(adapt, tell, x, noise, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert float(shares["normal_right"]) == pytest.approx(float((d[:40] >= 0.5).double().mean()))
    assert float(shares["noisy_right"]) == pytest.approx(float((d[40:] < -0.5).double().mean()))
    for mine, right in zip(parameters, w, strict=True):
        torch.testing.assert_close(mine.grad, right.grad, rtol=1e-9, atol=1e-12)
    before = [p.detach().double().clone() for p in parameters]
    for optimizer in optimizers.values():
        optimizer.step()
    for i, (mine, old) in enumerate(zip(parameters, before, strict=True)):
        decoupled = i < 2  # AdamW, with torch's own decay of 0.01; the other is Adam, whose decay is of the gradient
        g = mine.grad.double() + (0 if decoupled else 1e-5 * old)
        rate, kept = (1e-4, 1 - 1e-4 * 0.01) if decoupled else (2e-4, 1.0)
        torch.testing.assert_close(mine.detach().double(), kept * old - rate * g / (g.abs() + 1e-8), rtol=0, atol=1e-6)


def test_scores_are_softplus_of_minus_the_discriminator_with_its_running_statistics():
    model = make_method("simplenet", config(), SHORT, progress=False).fit(images(3))
    pictures = images(2, seed=1)
    t = {name: value.double() for name, value in model._tensors().items()}
    backbone = Backbone(TINY["backbone"], TINY["layers"], "random", "cpu")
    x = FeatureExtractor(backbone)(pictures).features.double()
    z = (x @ t["adapter.weight"].T + t["adapter.bias"]) @ t["discriminator.0.weight"].T + t["discriminator.0.bias"]
    scale = t["discriminator.1.weight"] / (t["discriminator.1.running_var"] + 1e-5).sqrt()
    z = (z - t["discriminator.1.running_mean"]) * scale + t["discriminator.1.bias"]
    d = torch.where(z > 0, z, 0.2 * z) @ t["discriminator.3.weight"][0]
    wanted = torch.log1p(torch.exp(-d)).view(2, -1)
    found = model.patch_scores(pictures).double().flatten(1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert [p.score for p in model.predict(pictures)] == pytest.approx(wanted.amax(1).tolist(), rel=1e-5)


def test_the_published_sizes():
    with torch.device("meta"):
        assert discriminator(1536)[0].out_features == 1024
    assert rows_of(torch.arange(12.0).view(1, 3, 2, 2)).tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


def test_amazons_fusion_is_taken_and_others_are_not():
    model = make_method("simplenet", config(fusion="amazon", dim=24, layer_dim=48), SHORT, progress=False)
    assert model.fit(images(2))._tensors()["adapter.weight"].shape == (24, 24)
    for fusion in ("interpolated", "graph"):
        with pytest.raises(ValueError, match='fusion must be "concat" or "amazon"'):
            make_method("simplenet", config(fusion=fusion), SHORT)


def test_noise_that_is_lost_in_the_features_is_told_before_and_after():
    settings = SimpleNetSettings(epochs=20, steps=4, batch_size=4, noise=1e-6, rate=0.01)
    with pytest.warns(UserWarning) as told:
        make_method("simplenet", config(), settings, progress=False).fit(images(4))
    before, after = (str(warning.message) for warning in told)
    assert "noise is 1e-06, and channels have a standard deviation of 0." in before and "may be too alike" in before
    assert "could not be told apart, the loss is" in after and "take a larger noise than 1e-06" in after


def test_noise_of_the_size_of_the_features_is_not_spoken_of(recwarn):
    make_method("simplenet", config(), replace(SHORT, noise=1.0), progress=False).fit(images(4))
    assert not recwarn.list
