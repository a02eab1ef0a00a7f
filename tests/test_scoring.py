"""Patch scores, image scores and maps against plain float64 formulas and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from patchcore_fast import scoring
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.kernels import knn
from patchcore_fast.scoring import image_score, top_patches

from .patches import normal


def test_patch_scores() -> None:
    dist = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
    assert scoring.patch_scores(dist).tolist() == [2.0, 1.0]
    assert scoring.patch_scores(dist, squared=True).tolist() == [5.0, 2.0]


def _equation_7(x: np.ndarray, bank: np.ndarray, b: int) -> float:
    """Straight from the paper in float64; x [P, D] are the patches of one image."""
    d = np.linalg.norm(x[:, None] - bank[None], axis=2)
    test = int(d.min(1).argmax())
    star = int(d[test].argmin())
    around = np.argsort(np.linalg.norm(bank - bank[star], axis=1), kind="stable")[:b]
    weight = 1 - np.exp(d[test, star]) / np.exp(d[test, around]).sum()
    return float(weight * d[test, star])


@pytest.mark.parametrize("b", [2, 5, 9, 40], ids=lambda b: f"b{b}")
def test_reweighted_is_equation_7(b: int) -> None:
    bank, query = normal(30, 8, 0), normal(3 * 20, 8, 1)
    dist, nearest = knn(query, bank, 1)
    got = scoring.image_score(dist.view(3, 20), "reweighted", features=query, nearest=nearest[:, 0], bank=bank, b=b)
    want = [_equation_7(x.double().numpy(), bank.double().numpy(), b) for x in query.view(3, 20, 8)]
    assert got.tolist() == pytest.approx(want, rel=1e-5)


def test_reweighting_does_not_overflow() -> None:
    bank, query = normal(30, 8, 0, 1e4), normal(20, 8, 1, 1e4)
    dist, nearest = knn(query, bank, 1)
    got = scoring.image_score(dist.view(1, 20), "reweighted", features=query, nearest=nearest[:, 0], bank=bank)
    assert torch.isfinite(got).all() and 0 < got[0] <= dist.max()


def test_reweighting_with_one_bank_row_is_the_maximum() -> None:
    bank, query = normal(1, 8, 0), normal(20, 8, 1)
    dist, nearest = knn(query, bank, 1)
    got = scoring.image_score(dist.view(2, 10), "reweighted", features=query, nearest=nearest[:, 0], bank=bank)
    assert torch.equal(got, scoring.image_score(dist.view(2, 10), "max"))


@pytest.mark.parametrize("border", ["reflect", "mirror"])
@pytest.mark.parametrize(("size", "sigma"), [((40, 56), 4.0), ((9, 5), 4.0), ((1, 7), 2.0), ((20, 20), 0.7)], ids=str)
def test_blur_is_scipys(size: tuple[int, int], sigma: float, border: str) -> None:
    maps = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    want = np.stack([ndimage.gaussian_filter(m, sigma, mode=border) for m in maps.double().numpy()])
    np.testing.assert_allclose(scoring.gaussian_blur(maps, sigma, border).numpy(), want, rtol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_anomaly_map_without_blur_is_interpolation(mode: str) -> None:
    patches = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))
    want = F.interpolate(patches[:, None], size=(20, 35), mode=mode)[:, 0]
    assert torch.equal(scoring.anomaly_map(patches, (20, 35), sigma=0, mode=mode), want)


def test_map_to_image_puts_the_crop_where_it_was() -> None:
    anomaly = np.ones((10, 20), np.float32)
    anomaly[0, 0] = 0.5
    full = scoring.map_to_image(anomaly, (60, 80), (30, 40))
    assert full.shape == (60, 80) and full.dtype == np.float32
    assert (full[:19] == 0.5).all() and (full[:, :19] == 0.5).all()  # outside the crop: the minimum
    assert (full[24:39, 24:58] == 1).all()
    assert scoring.map_to_image(anomaly, (10, 20)) == pytest.approx(anomaly)
    full = scoring.map_to_image(anomaly * 2, (60, 80), (30, 40), outside=-7.0)
    assert (full[:20] == -7).all() and (full[40:] == -7).all() and (full[20:40, 20:60] >= 1).all()


@pytest.mark.parametrize(("original", "resized", "crop"), [
    ((37, 53), (16, 16), (11, 9)), ((101, 17), (95, 16), (14, 14)), ((5, 7), (64, 64), (33, 20)),
    ((2, 3), (40, 40), (3, 3)), ((64, 48), (64, 48), (64, 48)),
])  # fmt: skip
def test_the_crop_is_laid_on_the_pixels_whose_centres_it_holds(
    original: tuple[int, int], resized: tuple[int, int], crop: tuple[int, int]
) -> None:
    rows, columns = scoring.seen_box(crop, original, resized)
    for seen, side, whole, part in zip((rows, columns), original, resized, crop, strict=True):
        centres = (np.arange(side) + 0.5) * whole / side - round((whole - part) / 2)
        assert ((centres >= 0) & (centres < part)).tolist() == [seen.start <= i < seen.stop for i in range(side)]
    anomaly = np.random.default_rng(0).random(crop, dtype=np.float32)
    full = scoring.map_to_image(anomaly, original, resized, outside=np.inf)
    assert np.isinf(full).sum() == full.size - full[rows, columns].size and np.isfinite(full[rows, columns]).all()
    y, x = (np.clip((np.arange(side) + 0.5) * whole / side - 0.5 - round((whole - part) / 2), 0, part - 1)[seen]
            for seen, side, whole, part in zip((rows, columns), original, resized, crop, strict=True))  # fmt: skip
    want = ndimage.map_coordinates(anomaly.astype(float), np.meshgrid(y, x, indexing="ij"), order=1)
    np.testing.assert_allclose(full[rows, columns], want, atol=2e-6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_score_patches_compiles_whole(backend: str) -> None:
    query, bank = normal(50, 16, 0), normal(20, 16, 1)
    want = torch.cdist(query.double(), bank.double()).sort(dim=1).values[:, :3].square().mean(1).float()
    torch._dynamo.reset()
    compiled = torch.compile(scoring.score_patches, fullgraph=True, backend=backend)
    for score in (scoring.score_patches, compiled):
        torch.testing.assert_close(score(query, bank, 3, squared=True), want, rtol=1e-5, atol=0)


@pytest.mark.parametrize("border", ["reflect", "mirror"])
def test_large_maps_are_smoothed_in_bands(border: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(2, 37, 50, generator=torch.Generator().manual_seed(0))
    whole = scoring.gaussian_blur(maps, 2.5, border)
    monkeypatch.setattr(scoring, "_BAND", 300)
    torch.testing.assert_close(scoring.gaussian_blur(maps, 2.5, border), whole)


@pytest.mark.parametrize(("method", "count"), [("top:0.01", 1), ("top:0.1", 7), ("top:0.29", 20), ("top:1", 70)])
def test_top_is_the_mean_of_the_highest_share(method: str, count: int) -> None:
    patches = torch.rand(3, 70, generator=torch.Generator().manual_seed(0))
    want = patches.sort(dim=1, descending=True).values[:, :count].mean(dim=1)
    torch.testing.assert_close(image_score(patches, method), want)
    assert top_patches(0.29, 100) == 29 and top_patches(1e-9, 5) == 1


@pytest.mark.parametrize("method", ["top", "top:", "top:0", "top:1.5", "top:nan", "mean", "tip:0.1"])
def test_wrong_image_scores(method: str) -> None:
    with pytest.raises(ValueError, match=r'method must be "max", "reweighted" or "top:SHARE"'):
        image_score(torch.rand(1, 3), method)
    with pytest.raises(ValueError, match=r"scoring\.image_score must be one of max, reweighted, or top:SHARE"):
        PatchCoreConfig(image_score=method)
