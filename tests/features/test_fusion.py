"""Interpolated fusion of two or three layers, its reduction, and half-precision features and banks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from patchcore_fast.errors import BankError
from patchcore_fast.features import Backbone, FeatureExtractor
from patchcore_fast.features.fusion import align_layers, channel_projection, reduce_channels
from patchcore_fast.kernels import knn
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.samplers import make_sampler
from patchcore_fast.scoring import image_score

TINY = "test_efficientnet"
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def _maps(*shapes: tuple[int, int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *shape, generator=generator) for shape in shapes]


def _images(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, 64, 48, generator=torch.Generator().manual_seed(0))


def test_aligned_by_hand() -> None:
    """Each value is the bilinear mean of neighbourhood means, written out for one place."""
    fine, coarse = _maps((2, 4, 6), (3, 2, 3))
    out = align_layers([fine, coarse], patch_size=3)
    assert out.shape == (2, 5, 4, 6)
    padded = F.pad(fine, (1, 1, 1, 1))
    torch.testing.assert_close(out[:, :2, 2, 3], padded[:, :, 2:5, 3:6].mean((2, 3)))
    means = torch.stack([F.pad(coarse, (1, 1, 1, 1))[:, :, y : y + 3, x : x + 3].mean((2, 3))
                         for y in range(2) for x in range(3)], dim=2).view(2, 3, 2, 3)  # fmt: skip
    # Place (1, 2) of the fine grid lies at ((1.5) / 2 - 0.5, (2.5) / 2 - 0.5) = (0.25, 0.75) of the coarse one.
    want = (0.75 * (0.25 * means[:, :, 0, 0] + 0.75 * means[:, :, 0, 1])
            + 0.25 * (0.25 * means[:, :, 1, 0] + 0.75 * means[:, :, 1, 1]))  # fmt: skip
    torch.testing.assert_close(out[:, 2:, 1, 2], want)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_largest_map_sets_the_grid_wherever_it_stands(order: tuple[int, ...]) -> None:
    maps = _maps((2, 8, 6), (3, 4, 3), (5, 2, 2))
    out = align_layers([maps[i] for i in order])
    assert out.shape == (2, 10, 8, 6)
    alone = {i: align_layers([maps[0], maps[i]])[:, 2:] if i else align_layers([maps[0]]) for i in range(3)}
    torch.testing.assert_close(out, torch.cat([alone[i] for i in order], dim=1))


@pytest.mark.parametrize("layers", [(1, 2), (1, 2, 3)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_without_a_dim_it_is_concat(layers: tuple[int, ...], mode: str) -> None:
    backbone = Backbone(TINY, layers, "random")
    plain = FeatureExtractor(backbone, "concat", resize=mode)(_images())
    fused = FeatureExtractor(backbone, "interpolated", resize=mode)(_images())
    assert torch.equal(plain.features, fused.features) and plain.grid == fused.grid


@pytest.mark.parametrize("layers", [(1, 2), (1, 2, 3)])
def test_reduced_features(layers: tuple[int, ...]) -> None:
    backbone = Backbone(TINY, layers, "random")
    whole = FeatureExtractor(backbone, "concat")(_images()).features
    projected = FeatureExtractor(backbone, "interpolated", dim=16, seed=3)
    rows = projected(_images()).features
    assert projected.dim == rows.shape[1] == 16
    torch.testing.assert_close(rows, whole @ channel_projection(whole.shape[1], 16, 3).t(), rtol=1e-4, atol=1e-5)
    other = FeatureExtractor(backbone, "interpolated", dim=16, seed=4)(_images()).features
    assert not torch.equal(rows, other)
    pooled = FeatureExtractor(backbone, "interpolated", dim=16, reduction="pool")(_images()).features
    torch.testing.assert_close(pooled, F.adaptive_avg_pool1d(whole[:, None], 16)[:, 0])
    assert FeatureExtractor(backbone, "interpolated", dim=whole.shape[1])(_images()).features.equal(whole)


def test_projection_keeps_distances() -> None:
    x = torch.randn(200, 152, generator=torch.Generator().manual_seed(1))
    matrix = channel_projection(152, 64, 0)
    ratio = torch.pdist(x @ matrix.t()) / torch.pdist(x)
    # |P x|^2 / |x|^2 is chi-square with 64 degrees of freedom over 64: a standard deviation of 1 / sqrt(128) = 0.09.
    assert abs(float(ratio.mean()) - 1) < 0.02 and 0.06 < float(ratio.std()) < 0.12
    assert torch.equal(matrix, channel_projection(152, 64, 0))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: align_layers([]), ValueError, "at least one map"),
        (lambda: align_layers([torch.rand(2, 3, 4)]), ValueError, r"must be \[B, C, h, w\], got shape \(2, 3, 4\)"),
        (lambda: align_layers([torch.ones(1, 1, 2, 2).int()]), TypeError, "floating"),
        (lambda: align_layers([*_maps((1, 2, 2)), torch.rand(3, 1, 2, 2)]), ValueError, "of one batch"),
        (lambda: align_layers([*_maps((1, 2, 2)), torch.rand(2, 1, 2, 2).double()]), TypeError, "one floating type"),
        (lambda: align_layers(_maps((1, 2, 2)), 2), ValueError, "odd"),
        (lambda: align_layers(_maps((1, 2, 2)), 3, "cubic"), ValueError, "mode"),
        (lambda: reduce_channels(torch.rand(1, 4, 2, 2), 5), ValueError, r"must lie in 1\.\.4"),
        (lambda: reduce_channels(torch.rand(1, 4, 2, 2), 2, "pca"), ValueError, "method"),
        (lambda: reduce_channels(torch.rand(1, 4, 2, 2), 2, "project", torch.rand(3, 4)), ValueError, r"\[2, 4\]"),
        (lambda: reduce_channels(torch.rand(4, 2), 2), ValueError, r"x must be \[B, C, h, w\]"),
        (lambda: channel_projection(0, 2), ValueError, "channels must be an integer >= 1"),
        (lambda: channel_projection(2, 2, -1), ValueError, "seed"),
        (lambda: FeatureExtractor(Backbone(TINY, (1,), "random"), "interpolated", dim=999), ValueError, "got 999"),
        (lambda: FeatureExtractor(Backbone(TINY, (1,), "random"), reduction="tsne"), ValueError, "reduction"),
        (lambda: FeatureExtractor(Backbone(TINY, (1,), "random"), precision="int8"), ValueError, "precision"),
        (lambda: PatchCoreConfig(precision="half"), ValueError, "precision must be one of float32, float16, bfloat16"),
        (lambda: PatchCoreConfig(dim=64), ValueError, "dim belongs to"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def _config(**changes: Any) -> PatchCoreConfig:
    base: dict[str, Any] = {
        "backbone": TINY, "layers": (1, 2), "weights": "random", "image_size": 64, "ratio": 0.1, "sigma": 2.0,
    }  # fmt: skip
    return PatchCoreConfig(**(base | changes))


@pytest.mark.parametrize("precision", HALF)
def test_half_precision_features_are_close_and_rounded_once(precision: str) -> None:
    backbone = Backbone("tf_efficientnet_lite0", (2, 3))
    images = _images()
    exact = FeatureExtractor(backbone)(images).features
    half = FeatureExtractor(backbone, precision=precision)(images).features
    assert half.dtype == HALF[precision] and half.is_contiguous()
    relative = float((half.float() - exact).norm() / exact.norm())
    assert 0 < relative < {"float16": 5e-3, "bfloat16": 4e-2}[precision]


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("sampler", ["greedy", "elfs", "approximate", "random", "identity"])
def test_half_precision_banks(precision: str, sampler: str, tmp_path: Any) -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = PatchCore(_config(precision=precision, sampler=sampler, score="reweighted")).fit(images)
    assert model.bank.features.dtype == HALF[precision]
    model.save(tmp_path / "b.safetensors")
    again = PatchCore.load(tmp_path / "b.safetensors")
    assert torch.equal(again.bank.features, model.bank.features)
    assert [p.score for p in again.predict(images)] == [p.score for p in model.predict(images)]
    # Distances are those of the rounded rows, in float64.
    rows = model.training_features(images).features
    assert rows.dtype == HALF[precision]
    dist, _ = knn(rows, model.bank.features, 1)
    want = torch.cdist(rows.double(), model.bank.features.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(dist[:, 0], want.min(1).values.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", HALF)
def test_selection_from_half_rows_is_that_of_the_same_numbers(precision: str) -> None:
    rows = torch.randn(600, 24, generator=torch.Generator().manual_seed(0)).to(HALF[precision])
    for name in ("greedy", "approximate"):
        half, wide = (make_sampler(name, ratio=0.1, seed=0, device="cpu").select(x) for x in (rows, rows.float()))
        assert torch.equal(half, wide), name


@pytest.mark.parametrize("precision", HALF)
def test_reweighted_scores_do_not_round_differences(precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = (100 + torch.randn(50, 8, generator=generator)).to(HALF[precision])
    query = (100 + torch.randn(6, 8, generator=generator)).to(HALF[precision])
    scores = {}
    for wide in (False, True):
        q, b = (query.float(), bank.float()) if wide else (query, bank)
        dist, nearest = knn(q, b, 1)
        scores[wide] = image_score(dist.view(2, 3), "reweighted", features=q, nearest=nearest[:, 0], bank=b)
    torch.testing.assert_close(scores[False], scores[True])


def test_what_float16_cannot_hold_is_told() -> None:
    backbone = Backbone(TINY, (1,), "random")
    extractor = FeatureExtractor(backbone, precision="float16")
    with torch.no_grad():
        next(backbone.net.parameters()).mul_(1e7)
    with pytest.raises(ValueError, match=r'not finite in torch\.float16; take precision="bfloat16"'):
        extractor(_images())


def test_a_bank_of_another_precision_than_its_settings_is_refused(tmp_path: Any) -> None:
    rows = torch.rand(5, 4)
    with pytest.raises(ValueError, match=r"must be \[M, D\] float16, got \(5, 4\) torch.float32"):
        MemoryBank(rows, torch.arange(5), config={"precision": "float16"})
    with pytest.raises(ValueError, match="float32"):
        MemoryBank(rows.half(), torch.arange(5))
    bank = MemoryBank(rows.half(), torch.arange(5), config={"precision": "float16"})
    bank.save(tmp_path / "b.safetensors")
    assert torch.equal(MemoryBank.load(tmp_path / "b.safetensors").features, rows.half())
    bank.config["features"]["precision"] = ["float16"]
    bank.save(tmp_path / "c.safetensors")
    with pytest.raises(BankError, match="inconsistent"):
        MemoryBank.load(tmp_path / "c.safetensors")
