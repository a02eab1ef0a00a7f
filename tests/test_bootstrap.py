"""Bootstrap intervals: the counts give the metrics of scikit-learn, resamples keep their strata, intervals cover."""

from __future__ import annotations

import numpy as np
import pytest

from patchcore_fast import metrics
from patchcore_fast.bootstrap import areas, image_counts, interval, pixel_counts, resample_weights


def maps_and_masks(n: int = 12, side: int = 40, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(n):
        mask = np.zeros((side, side), bool)
        if i % 3:
            mask[5 : 9 + i, 20:26] = True
            mask[30:34, 3 : 5 + i % 4] = True
        maps.append((rng.normal(0, 1, (side, side)) + 1.2 * mask).astype(np.float32))
        masks.append(mask)
    return maps, masks


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("ties", [False, True])
def test_image_areas_are_the_metrics_of_the_repeated_images(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[np.zeros(20, int), np.ones(15, int)]
    scores = rng.normal(labels, 1.0)
    scores = np.round(scores, 1) if ties else scores
    weights = resample_weights(labels.tolist(), 5, seed)
    found = areas(weights, image_counts(scores, labels))
    for b, times in enumerate(weights.astype(int)):
        s, y = np.repeat(scores, times), np.repeat(labels, times)
        assert found["auroc"][b] == pytest.approx(metrics.image_auroc(s, y), abs=1e-12)
        assert found["ap"][b] == pytest.approx(metrics.average_precision(s, y), abs=1e-12)
        assert found["f1"][b] == pytest.approx(metrics.best_f1(s, y)[1], abs=1e-12)


def test_pixel_areas_are_close_to_the_metrics_of_the_repeated_images() -> None:
    maps, masks = maps_and_masks()
    counts = pixel_counts(maps, masks)
    assert counts is not None
    weights = resample_weights([bool(m.any()) for m in masks], 4, seed=3)
    found = areas(weights, counts)
    for b, times in enumerate(weights.astype(int)):
        s = [m for m, t in zip(maps, times, strict=True) for _ in range(t)]
        y = [m for m, t in zip(masks, times, strict=True) for _ in range(t)]
        assert found["auroc"][b] == pytest.approx(metrics.pixel_auroc(s, y), abs=1e-3)
        assert found["ap"][b] == pytest.approx(metrics.average_precision(s, y), abs=2e-3)
        assert found["aupro"][b] == pytest.approx(metrics.aupro(s, y), abs=1e-3)
        assert found["f1"][b] == pytest.approx(metrics.best_f1(s, y)[1], abs=1e-3)


def test_images_without_known_pixels_count_nothing() -> None:
    maps, masks = maps_and_masks(6)
    whole = pixel_counts(maps[:5], masks[:5])
    part = pixel_counts(maps, [*masks[:5], None])
    assert whole is not None and part is not None
    assert part.negatives[5].sum() == part.positives[5].sum() == 0
    assert (part.positives[:5] == whole.positives).all()
    assert pixel_counts(maps, [None] * 6) is None
    assert pixel_counts(maps, [np.zeros((40, 40))] * 6) is None, "no anomalous pixel"


def test_resamples_keep_every_stratum_and_follow_the_seed() -> None:
    strata = [("a", 1)] * 7 + [("b", 1)] * 2 + [("a", 0)] * 4
    weights = resample_weights(strata, 200, seed=5)
    for part, size in ((slice(0, 7), 7), (slice(7, 9), 2), (slice(9, 13), 4)):
        assert (weights[:, part].sum(axis=1) == size).all()
    assert (weights == resample_weights(strata, 200, seed=5)).all()
    assert (weights != resample_weights(strata, 200, seed=6)).any()
    assert weights.mean(axis=0) == pytest.approx(np.ones(13), abs=0.25)


def test_resampling_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()
    resample_weights([0, 1], 10)
    assert (np.random.get_state()[1] == before).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Two normal distributions one apart: the true AUROC is Phi(1 / sqrt(2)).
    truth, hits = 0.7602, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.r_[np.zeros(60, int), np.ones(60, int)]
        values = areas(resample_weights(labels.tolist(), 300, seed), image_counts(rng.normal(labels, 1.0), labels))
        low, high = interval(values["auroc"], 0.9) or (2.0, 2.0)
        hits += low <= truth <= high
    assert 48 <= hits <= 60, "90 % of 60 are 54, give or take 2.3"


def test_interval_shifts_clips_and_refuses() -> None:
    values = np.linspace(0.9, 1.0, 101)
    assert interval(values, 0.5, 0.02) == pytest.approx((0.945, 0.995))
    assert interval(values, 0.9, 0.05) == (pytest.approx(0.955), 1.0)
    assert interval(np.full(3, np.nan)) is None
    with pytest.raises(ValueError, match=r"level must be between 0 and 1, got 95"):
        interval(values, 95)


def test_a_row_without_one_class_is_nan() -> None:
    counts = image_counts([1.0, 2.0, 3.0], [0, 1, 1])
    found = areas(np.array([[0.0, 1, 1], [1, 1, 1]]), counts)
    assert np.isnan(found["auroc"][0]) and found["auroc"][1] == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: resample_weights([]), "at least one image, got none"),
        (lambda: resample_weights([1], 0), "positive integer, got 0"),
        (lambda: image_counts([1.0], [0, 1]), "got 1 scores, 2 labels"),
        (lambda: image_counts([np.nan], [0]), "must be finite, 1 are not"),
        (lambda: pixel_counts([np.zeros((2, 2))], []), "got 1 maps, 0 masks"),
        (lambda: pixel_counts([np.zeros((2, 2))], [np.zeros((2, 3))]), r"map of shape \(2, 2\) and a mask of shape"),
        (lambda: pixel_counts([np.full((2, 2), np.inf)], [np.zeros((2, 2))]), "image 0 is not finite"),
    ],
)
def test_bad_input(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]
