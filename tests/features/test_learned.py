"""PCA, whitening and cosine: against NumPy in float64, through fit, bank file, update and merge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from patchcore_fast.errors import BankError
from patchcore_fast.features import Backbone, FeatureExtractor, LinearReduction, Moments
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.living import merged

CPU = torch.device("cpu")


def _rows(n: int = 500, d: int = 12, offset: float = 50.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + offset


def _images(n: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def _config(**changes: Any) -> PatchCoreConfig:
    base: dict[str, Any] = {
        "backbone": "test_efficientnet", "layers": (1, 2), "weights": "random", "image_size": 64, "ratio": 0.1,
        "sigma": 2.0, "device": "cpu", "batch_size": 2,
    }  # fmt: skip
    return PatchCoreConfig(**(base | changes))


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("split", [[500], [1, 199, 300]])
def test_moments_give_the_pca_of_all_rows(whiten: bool, split: list[int]) -> None:
    rows, moments = _rows(), Moments()
    for part in rows.split(split):
        moments.add(part)
    found = moments.reduction(5, whiten)
    x = rows.double().numpy()
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    want = vectors[:, ::-1][:, :5]
    want *= np.sign(want[np.abs(want).argmax(axis=0), range(5)])
    if whiten:
        want = want / np.sqrt(values[::-1][:5])
    np.testing.assert_allclose(found.mean.numpy(), x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.matrix.numpy(), want, rtol=1e-4, atol=1e-6)
    done = found(rows)
    np.testing.assert_allclose(done.numpy(), (x - x.mean(axis=0)) @ want, atol=1e-3)
    spread = done.var(dim=0, correction=0)
    assert torch.allclose(spread, torch.ones(5), atol=1e-3) if whiten else bool((spread[:-1] > spread[1:]).all())


def test_whitening_does_not_blow_up_what_does_not_vary() -> None:
    rows = _rows(d=4)
    moments = Moments()
    moments.add(torch.cat([rows, rows[:, :1], torch.full((500, 1), 3.0)], dim=1))
    found = moments.reduction(None, True)(torch.cat([rows, rows[:, :1], torch.full((500, 1), 3.0)], dim=1))
    assert found.shape == (500, 6) and float(found.abs().max()) < 100
    with pytest.raises(ValueError, match=r"dim must lie in 1\.\.6, .* got 7"):
        moments.reduction(7, False)
    with pytest.raises(ValueError, match="at least 2 rows are wanted, got 0"):
        Moments().reduction(1, False)
    with pytest.raises(ValueError, match=r"rows must be \[N, C\] of one width"):
        moments.add(rows)
    with pytest.raises(ValueError, match="must be finite"):
        moments.add(torch.full((2, 6), torch.nan))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_are_converted_in_their_own_memory(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_fast.model.collect._BLOCK", 7)
    rows = FeatureRows(5)
    data = _rows(60, 12)
    for part in data.split(12):
        rows.add(part, (3, 4))
    start = rows.features.data_ptr()
    rows.convert(lambda x: (x[:, :5] * 2).to(dtype), CPU)
    assert rows.features.data_ptr() == start and rows.features.dtype == dtype
    assert torch.equal(rows.features, (data[:, :5] * 2).to(dtype)) and rows.grid == (3, 4)
    rows.add((data[:12, :5] * 2).to(dtype), (3, 4))
    assert torch.equal(rows.features[-12:], (data[:12, :5] * 2).to(dtype)) and len(rows.features) == 72


@pytest.mark.parametrize(
    ("fusion", "reduction", "metric", "precision"),
    [("concat", "pca", "euclidean", "float32"), ("interpolated", "whiten", "cosine", "float32"),
     ("concat", "whiten", "euclidean", "bfloat16")],
)  # fmt: skip
def test_fit_and_file(fusion: str, reduction: str, metric: str, precision: str, tmp_path: Path) -> None:
    config = _config(fusion=fusion, reduction=reduction, metric=metric, precision=precision, dim=8)
    model = PatchCore(config, progress=False).fit(_images())
    plain = FeatureExtractor(Backbone("test_efficientnet", (1, 2), "random"), fusion)(_images()).features
    moments = Moments()
    moments.add(plain)
    want = moments.reduction(8, reduction == "whiten")
    bank = model.bank
    assert bank.features.shape[1] == 8 and bank.reduction_matrix is not None and bank.reduction_mean is not None
    rows = LinearReduction(bank.reduction_mean, bank.reduction_matrix)(plain)
    if precision == "float32":
        torch.testing.assert_close(want.matrix, bank.reduction_matrix, rtol=1e-3, atol=1e-4)
        rows = F.normalize(rows) if metric == "cosine" else rows
        torch.testing.assert_close(bank.features, rows[bank.indices], rtol=1e-4, atol=1e-4)
    model.save(tmp_path / "b.safetensors")
    again = PatchCore.load(tmp_path / "b.safetensors", "cpu", batch_size=2, progress=False)
    for ours, theirs in zip(model.predict(_images(3, 1)), again.predict(_images(3, 1)), strict=True):
        assert ours.score == theirs.score and np.array_equal(ours.anomaly_map, theirs.anomaly_map)
    assert torch.equal(again.training_features(_images()).features, model.training_features(_images()).features)
    before = len(again.bank)
    again.update(_images(2, 2), add=3)
    assert len(again.bank) == before + 3 and torch.equal(again.bank.reduction_matrix, bank.reduction_matrix)
    other = PatchCore(config, progress=False).fit(_images(5, 3))
    with pytest.raises(ValueError, match="bank 2 has other reduction, which was learnt from other images"):
        merged([model.bank, other.bank], None, CPU)
    assert torch.equal(model.fit(_images(5, 3)).bank.features, other.bank.features)  # an earlier fit leaves nothing


def test_a_bank_without_its_reduction_is_refused(tmp_path: Path) -> None:
    bank = PatchCore(_config(reduction="pca", dim=4), progress=False).fit(_images()).bank
    replace(bank, reduction_mean=None, reduction_matrix=None).save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match='lacks the reduction "pca" that its settings name'):
        PatchCore.load(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="go together"):
        replace(bank, reduction_mean=None)
    with pytest.raises(ValueError, match=r"must be finite \[C\] and \[C, 4\] float32, got"):
        replace(bank, reduction_matrix=torch.full((72, 4), torch.inf))
    assert MemoryBank(torch.rand(3, 2), torch.arange(3)).reduction_mean is None


def test_cosine_scores_are_one_minus_the_cosine_and_the_price() -> None:
    model = PatchCore(_config(metric="cosine"), progress=False).fit(_images())
    raw = FeatureExtractor(Backbone("test_efficientnet", (1, 2), "random"))
    bank, queries = raw(_images()).features[model.bank.indices], raw(_images(2, 1)).features
    similarity = F.normalize(queries.double()) @ F.normalize(bank.double()).T
    price = (model.config.search.price * model.bank.support.double()).square() / 2
    nearest = (1 - similarity + price).sort(dim=1).values[:, :3]
    want = nearest.mean(dim=1).view(2, -1).max(dim=1).values
    got = [p.score for p in model.predict(_images(2, 1))]
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4)
    assert model.threshold is not None and model.bank.normal_scores is not None
    assert 0 < float(model.bank.normal_scores.max()) < 2
    model.decide(max_false_alarms=0.05)  # from the same scores, by the same rule
    assert model.threshold > 0


def test_rows_of_zeros_stay_zeros() -> None:
    extractor = FeatureExtractor(Backbone("test_efficientnet", (1,), "random"), metric="cosine")
    rows = extractor.finish(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-15, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fusion": "amazon", "reduction": "pca"}, "pca goes with every fusion, but not with"),
        ({"dim": 8}, r"belongs to .* or to reduction=\"pca\" and \"whiten\""),
        ({"metric": "cosine", "distance": "squared"}, "cosine scores are 1 - cos"),
        ({"metric": "cosin"}, "mean cosine"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PatchCoreConfig(**settings)
