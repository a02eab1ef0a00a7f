"""The residual of a PCA against NumPy in float64, and its threshold against models that never saw the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchcore_fast.config.methods import SubspaceSettings
from patchcore_fast.features import Backbone, FeatureExtractor, Moments
from patchcore_fast.methods import make_method
from patchcore_fast.model.threshold import held_out_folds

from .tiny import config, images


def rows(model, pictures: torch.Tensor) -> np.ndarray:
    """[N, P, C] float64, the features of a PatchCore."""
    f = model.config.features
    extract = FeatureExtractor(Backbone(f.backbone, f.layers, "random"), patch_size=f.patch_size)
    found, (height, width) = extract(pictures)
    return found.double().numpy().reshape(len(pictures), height * width, -1)


def residuals(train: np.ndarray, test: np.ndarray, variance: float) -> tuple[np.ndarray, int]:
    flat = train.reshape(-1, train.shape[2])
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    k = 1
    while values[:k].sum() < variance * values.sum():
        k += 1
    moved = test - flat.mean(0)
    return np.linalg.norm(moved - moved @ vectors[:, :k] @ vectors[:, :k].T, axis=2), k


@pytest.mark.parametrize("batch", [1, 3], ids=lambda n: f"batches of {n}")
def test_residuals_and_held_out_scores_are_those_of_the_formulas(batch):
    train, test = images(5), images(2, seed=1)
    model = make_method("subspace", config(batch_size=batch), SubspaceSettings(variance=0.95), progress=False)
    model.fit(train)
    known, asked = rows(model, train), rows(model, test)
    wanted, k = residuals(known, asked, 0.95)
    np.testing.assert_allclose(model.patch_scores(test).flatten(1).numpy(), wanted, rtol=1e-4)
    for prediction, row in zip(model.predict(test), wanted, strict=True):
        assert prediction.score == pytest.approx(row.max(), rel=1e-5)
    assert model.said() == f"Subspace, {k} of 56 directions, fitted on 5 images"
    held = np.empty(5)
    for fold in held_out_folds(torch.arange(5), 5):
        rest = np.setdiff1d(np.arange(5), fold.numpy())
        held[fold.numpy()] = residuals(known[rest], known[fold.numpy()], 0.95)[0].max(1)
    np.testing.assert_allclose(model.learned.normal_scores.numpy(), held, rtol=1e-5)


def test_all_of_the_variance_leaves_one_direction_to_be_wrong_in():
    model = make_method("subspace", config(), SubspaceSettings(variance=1.0), progress=False).fit(images(2))
    assert model.said().startswith("Subspace, 55 of 56 directions")


def test_moments_without_rows_are_those_of_the_others():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 7, generator=generator) + 30
    whole, others = Moments(), Moments()
    whole.add(x)
    others.add(x[20:])
    for found, wanted in zip(whole.without(x[:20]).spectrum(), others.spectrum(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert whole.count == 60
