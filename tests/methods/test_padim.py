"""PaDiM against its formulas in NumPy float64, and what it holds while images stream by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchcore_fast.config.methods import PadimSettings
from patchcore_fast.methods import make_method
from patchcore_fast.methods.padim import _Sums
from patchcore_fast.model.threshold import false_alarm_threshold, held_out_folds

from .tiny import config, images


def embedded(model, pictures: torch.Tensor, chosen: np.ndarray) -> np.ndarray:
    """[N, P, d] float64: channels of all layers on the largest grid, the nearest place repeated."""
    maps = [m.double().numpy() for m in model.maps(pictures)]
    side = max(m.shape[2] for m in maps)
    whole = np.concatenate([m.repeat(side // m.shape[2], 2).repeat(side // m.shape[3], 3) for m in maps], axis=1)
    return whole[:, chosen].reshape(len(whole), len(chosen), -1).transpose(0, 2, 1)


def distances(train: np.ndarray, test: np.ndarray, ridge: float) -> np.ndarray:
    """Mahalanobis distances [M, P], position by position, as the paper has them."""
    found = np.empty(test.shape[:2])
    for p in range(train.shape[1]):
        rows = train[:, p]
        centred = rows - rows.mean(0)
        covariance = centred.T @ centred / max(len(rows) - 1, 1) + ridge * np.eye(rows.shape[1])
        moved = test[:, p] - rows.mean(0)
        found[:, p] = np.sqrt(np.einsum("md,dk,mk->m", moved, np.linalg.inv(covariance), moved))
    return found


@pytest.mark.parametrize("batch", [1, 3, 5], ids=lambda n: f"batches of {n}")
def test_distances_and_held_out_scores_are_those_of_the_formulas(batch):
    train, test, settings = images(5), images(2, seed=1), PadimSettings(dim=20, ridge=0.02)
    model = make_method("padim", config(batch_size=batch), settings, progress=False).fit(train)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(56, generator=generator)[:20].sort().values.numpy()
    known, asked = embedded(model, train, chosen), embedded(model, test, chosen)
    wanted = distances(known, asked, 0.02)
    found = model.patch_scores(test).flatten(1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for prediction, row in zip(model.predict(test), wanted, strict=True):
        assert prediction.score == pytest.approx(row.max(), rel=1e-5)
    held = np.empty(5)
    for fold in held_out_folds(torch.arange(5), 5):
        rest = np.setdiff1d(np.arange(5), fold.numpy())
        held[fold.numpy()] = distances(known[rest], known[fold.numpy()], 0.02).max(1)
    np.testing.assert_allclose(model.learned.normal_scores.numpy(), held, rtol=1e-5)
    assert model.threshold == pytest.approx(false_alarm_threshold(held, 0.05), rel=1e-4)
    assert model.said() == "PaDiM, 20 of 56 channels, fitted on 5 images"


def test_fewer_channels_than_wanted_are_all_taken_and_one_image_gives_no_threshold():
    model = make_method("padim", config(), progress=False).fit(images(1))
    assert model.said() == "PaDiM, 56 of 56 channels, fitted on 1 image"
    assert model.threshold is None and model.learned.normal_scores is None
    assert model.predict(images(1))[0].score < 1e-3  # it is the mean itself


def test_a_ridge_that_rounding_swallows_is_told():
    train = images(3) * 0 + torch.rand(3, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"covariances are singular with ridge=1e-25, take a larger one"):
        make_method("padim", config(), PadimSettings(ridge=1e-25), progress=False).fit(train)


def test_sums_without_images_are_those_of_the_others():
    x = torch.randn(9, 4, 6, generator=torch.Generator().manual_seed(0)) + 20
    whole, others = _Sums(), _Sums()
    for part in x.split(2):
        whole.add(part)
    others.add(x[:6])
    for found, wanted in zip(whole.without(x[6:]).gaussians(0.01), others.gaussians(0.01), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    assert whole.count == 9


def test_what_is_held_does_not_grow_with_the_number_of_images():
    sums, sizes = _Sums(), set()
    for i in range(6):
        sums.add(torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(i)))
        held = {name: t for name, t in vars(sums).items() if isinstance(t, torch.Tensor)}
        sizes.add(sum(t.untyped_storage().nbytes() for t in held.values()))
    assert sizes == {8 * 7 * (5 + 5 + 5 * 5)} and sums.count == 18
