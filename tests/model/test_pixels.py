"""The pixel threshold: what is kept of maps, and where it puts the share of pixels that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.pixels import (
    SHARES,
    HeldOut,
    false_pixel_interval,
    pixel_threshold,
    quantiles_of,
    shares_above,
)

CONFIG = {"weights": "random", "image_size": 64, "device": "cpu", "ratio": 0.2}


def made_up(count: int, spread: float, seed: int, side: int = 128) -> torch.Tensor:
    """Maps [count, side, side] of log-normal pixels, whose levels spread log-normally from image to image."""
    rng = np.random.default_rng(seed)
    levels = spread * rng.standard_normal((count, 1, 1))
    return torch.from_numpy(np.exp(1 + levels + 0.2 * rng.standard_normal((count, side, side)))).float()


def test_what_is_kept_is_what_shares_of_the_pixels_reach() -> None:
    maps = made_up(3, 0.1, 0)
    kept = quantiles_of(maps)
    assert kept.shape == (3, len(SHARES)) and bool((kept.diff(dim=1) >= 0).all())
    assert torch.equal(kept[:, 0], maps.flatten(1).min(1).values)
    assert torch.equal(kept[:, -1], maps.flatten(1).max(1).values)
    for one, values in zip(maps, kept, strict=True):
        reached = [float((one >= v).double().mean()) for v in values]
        assert reached == pytest.approx(SHARES, abs=1 / one.numel())


def test_shares_above_a_value_are_those_of_the_maps() -> None:
    maps = made_up(5, 0.2, 1)
    for value in (3.0, 4.0, 4.5):
        wanted = (maps > value).double().mean((1, 2)).numpy()
        assert shares_above(quantiles_of(maps), value) == pytest.approx(wanted, rel=0.1, abs=3e-4)
    assert shares_above(quantiles_of(maps), 1e9).tolist() == [0] * 5
    assert shares_above(quantiles_of(maps), -1.0).tolist() == [1] * 5


def test_large_maps_are_looked_at_in_part() -> None:
    one = torch.linspace(0, 1, 1200)[:, None] * torch.linspace(1, 2, 1300)[None]
    whole = np.quantile(one.numpy(), 1 - SHARES[:16])
    assert quantiles_of(one[None])[0, :16].numpy() == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize(("count", "spread"), [(5, 0.04), (20, 0.08), (60, 0.15)])
@pytest.mark.parametrize("share", [0.01, 0.001])
def test_new_maps_exceed_it_as_asked_for(count: int, spread: float, share: float) -> None:
    """Where levels are log-normal; the plain quantile of few images lets too many pixels through."""
    got = []
    for seed in range(20):
        limit = pixel_threshold(quantiles_of(made_up(count, spread, seed, 32)), share)
        got.append(float((made_up(30, spread, 1000 + seed, 32) > limit).double().mean()))
    assert share / 2 < np.mean(got) < 2 * share


def test_few_images_get_a_wider_margin() -> None:
    maps = quantiles_of(made_up(1, 0.0, 0).expand(50, -1, -1))
    limits = [pixel_threshold(maps[:n], 0.01) for n in (2, 5, 50)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == pytest.approx(float(made_up(1, 0.0, 0).quantile(0.99)), rel=0.05)
    assert pixel_threshold(maps[:1], 0.01) is None and false_pixel_interval(maps[:1], 1.0) is None


@pytest.mark.parametrize("odd", ["zeros", "copies", "one level"])
def test_maps_that_say_little_still_give_a_number(odd: str) -> None:
    maps = torch.zeros(4, 32, 32) if odd == "zeros" else torch.full((4, 32, 32), 2.0)
    if odd == "copies":
        maps[:3] = 0.0
    limit = pixel_threshold(quantiles_of(maps), 0.01)
    assert limit is not None and np.isfinite(limit)


def test_nearly_all_pixels_may_be_asked_for() -> None:
    maps = quantiles_of(made_up(5, 0.1, 0))
    limits = [pixel_threshold(maps, share) for share in (0.9, 0.999999, 1 - 1e-12)]
    assert limits == sorted(limits, reverse=True) and limits[-1] < float(maps.min())


def test_the_interval_is_of_the_images_and_always_the_same() -> None:
    maps = quantiles_of(made_up(30, 0.15, 3))
    low, high = false_pixel_interval(maps, 4.5)
    assert 0 < low < shares_above(maps, 4.5).mean() < high < 1
    assert false_pixel_interval(maps, 4.5) == (low, high)


@pytest.mark.parametrize("more", [{}, {"banks": "layer"}, {"image_size": 96, "tile": 64, "overlap": 32}],
                         ids=["one bank", "layers", "tiles"])  # fmt: skip
def test_held_out_maps_are_those_of_predictions(more: dict) -> None:
    images = torch.rand(4, 3, 90 if "tile" in more else 64, 64, generator=torch.Generator().manual_seed(0))
    config = PatchCoreConfig(**CONFIG | more, sampler="identity")
    model = PatchCore(config, progress=False).fit(images)
    kept = model.bank.normal_pixels
    assert kept is not None and len(kept) == 4
    if "banks" not in more:  # whose scales are of all images
        for i in range(4):
            without = PatchCore(config, progress=False).fit(images[torch.arange(4) != i])
            found = torch.from_numpy(without.predict(images[i : i + 1])[0].anomaly_map)
            assert torch.allclose(quantiles_of(found[None])[0], kept[i], rtol=1e-4)
    assert model.pixel_threshold == pixel_threshold(kept, 0.01)
    assert model.predict(images[:1])[0].pixel_threshold == model.pixel_threshold


def test_images_without_maps_leave_none() -> None:
    held = HeldOut([], [])
    assert held.maps() is None
    held.add(1.0, torch.ones(3))
    held.extend(HeldOut([2.0], [torch.ones(3)]))
    assert held.maps().shape == (2, 3)
    held.add(3.0, None)
    assert held.maps() is None
