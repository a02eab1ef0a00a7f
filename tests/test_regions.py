"""Regions are those of scikit-image, on any map; what they find is counted as plain loops over pixels count it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.measure import label, regionprops

from patchcore_fast.data import load_image
from patchcore_fast.model.results import Prediction
from patchcore_fast.regions import IOU, Region, find_regions, match_regions, regions_mask


def noise(seed: int, shape: tuple[int, int], sigma: float) -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return (values / max(values.std(), 1e-9)).astype(np.float32)


def of_skimage(values: np.ndarray, mask: np.ndarray, min_area: int) -> list[tuple[Any, ...]]:
    rows = []
    for p in regionprops(label(mask), values):
        top, left, bottom, right = p.bbox
        if p.area >= min_area:
            rows.append((left, top, right - left, bottom - top, p.area, p.centroid[::-1], p.intensity_max, p.image))
    return rows


def same(found: tuple[Region, ...], want: list[tuple[Any, ...]]) -> None:
    assert len(found) == len(want)
    for r, w in zip(found, want, strict=True):
        assert (r.x, r.y, r.width, r.height, r.area, r.maximum) == (*w[:5], w[6])
        assert r.centroid == pytest.approx(w[5]) and np.array_equal(r.mask, w[7])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
       sigma=st.sampled_from([0.0, 0.7, 2.0]), high=st.floats(-0.5, 2.5), drop=st.floats(0, 1.5),
       min_area=st.integers(1, 12))  # fmt: skip
def test_regions_are_those_of_scikit_image(
    seed: int, shape: tuple[int, int], sigma: float, high: float, drop: float, min_area: int
) -> None:
    values = noise(seed, shape, sigma)
    same(find_regions(values, high, min_area=min_area), of_skimage(values, values > high, min_area))
    found = find_regions(values, high, low=high - drop, min_area=min_area)
    mask = apply_hysteresis_threshold(values, high - drop, high)
    same(found, of_skimage(values, mask, min_area))
    if min_area == 1:
        assert np.array_equal(regions_mask(found, shape), mask)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_regions_of_random_masks(share: float) -> None:
    mask = np.random.default_rng(3).random((90, 70)) < share
    found = find_regions(mask.astype(np.uint8), 0)
    same(found, of_skimage(mask.astype(np.uint8), mask, 1))
    assert np.array_equal(regions_mask(found, mask.shape), mask)


def test_hysteresis_keeps_what_reaches_the_threshold() -> None:
    values = np.zeros((5, 12), np.float32)
    values[1, 1:6], values[1, 3] = 2, 4  # reaches it
    values[3, 8:12] = 3  # does not
    (found,) = find_regions(values, 3.5, low=1.5)
    assert (found.x, found.y, found.width, found.height, found.area, found.maximum) == (1, 1, 5, 1, 5, 4.0)
    assert found.centroid == (3.0, 1.0)
    assert find_regions(values, 4) == () == find_regions(np.full((3, 3), np.nan), 0)


def test_a_true_region_is_found_where_a_region_overlaps_it() -> None:
    truth = np.zeros((20, 40), bool)
    truth[2:8, 2:8] = truth[2:8, 20:30] = truth[14:16, 30:32] = True
    values = np.zeros((20, 40), np.float32)
    values[3:8, 3:8] = 1  # intersection over union 25 / 36
    values[7:10, 28:40] = 1  # touches the second in two pixels
    values[15:18, 3:9] = 1  # touches none
    regions = find_regions(values, 0.5)
    assert match_regions(regions, truth) == (3, 2, 1, 1)
    assert match_regions(regions, np.zeros_like(truth)) == (0, 0, 0, 3)
    assert match_regions((), truth) == (3, 0, 0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_plain_loops(seed: int) -> None:
    truth, values = noise(seed, (40, 50), 2.5) > 1, noise(seed, (40, 50), 2.5) + noise(99 - seed, (40, 50), 1.5) / 2
    regions = find_regions(values, 1.1, low=0.8, min_area=3)
    mine = [regions_mask([r], truth.shape) for r in regions]
    true = [label(truth) == i for i in range(1, label(truth).max() + 1)]
    hit = [any((m & t).any() for m in mine) for t in true]
    near = [any((m & t).sum() / (m | t).sum() >= IOU for m in mine) for t in true]
    false = [not (m & truth).any() for m in mine]
    assert match_regions(regions, truth) == (len(true), sum(hit), sum(near), sum(false))
    assert 0 < sum(near) <= sum(hit) <= len(true)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: find_regions(np.zeros(4), 1), r"\[H, W\], got shape \(4,\)"),
    (lambda: find_regions(np.zeros((2, 2)), float("nan")), "threshold must be a number, got nan"),
    (lambda: find_regions(np.zeros((2, 2)), None), "threshold must be a number, got None"),  # type: ignore[arg-type]
    (lambda: find_regions(np.zeros((2, 2)), 1, low=1.5), "low must be at most the threshold, 1, got 1.5"),
    (lambda: find_regions(np.zeros((2, 2)), 1, min_area=0), "at least 1 pixel, got 0"),
    (lambda: find_regions(np.zeros((2, 2)), 1, min_area=2.5), "an integer, got 2.5"),  # type: ignore[arg-type]
])  # fmt: skip
def test_what_is_wrong_is_said(call: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        call()


# regions of a prediction lie in its file


@pytest.mark.parametrize(("size", "resize", "crop", "aspect"), [
    ((97, 143), (96, 96), None, "squash"), ((75, 201), 48, (40, 30), "keep"),
    ((301, 155), (80, 80), (64, 50), "squash"), ((61, 40), (128, 96), (101, 77), "squash"),
])  # fmt: skip
def test_regions_lie_where_the_file_has_the_defect(
    size: tuple[int, int], resize: Any, crop: Any, aspect: str, tmp_path: Path
) -> None:
    """A map that is the photograph itself, resized and cropped as a model sees it, leads back to its white square."""
    height, width = size
    top, left, h, w = height // 2 - 9, width // 2 - 8, 15, 12
    pixels = np.zeros(size, np.uint8)
    pixels[top : top + h, left : left + w] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = load_image(tmp_path / "a.png", resize, crop, aspect)[0].numpy()
    full = load_image(tmp_path / "a.png", resize, None, aspect).shape[1:]
    found = Prediction(None, 1.0, seen, None, size, (full[0], full[1]), pixel_threshold=0.5)
    assert found.regions is not None and found.mask is not None
    (r,) = found.regions
    slack = [max(whole / part, 1) for whole, part in zip(size, full, strict=True)]  # what one pixel of the map covers
    assert abs(r.y - top) <= slack[0] and abs(r.y + r.height - top - h) <= slack[0]
    assert abs(r.x - left) <= slack[1] and abs(r.x + r.width - left - w) <= slack[1]
    assert abs(r.centroid[1] - (top + (h - 1) / 2)) < slack[0] / 2
    assert abs(r.centroid[0] - (left + (w - 1) / 2)) < slack[1] / 2
    assert found.mask.shape == size and found.mask.sum() == r.area and found.mask[r.box].sum() == r.area


def test_what_a_crop_left_out_is_in_no_region() -> None:
    found = Prediction(None, 1.0, np.ones((8, 6), np.float32), None, (50, 44), (10, 11), pixel_threshold=0.5)
    assert found.regions is not None
    (r,) = found.regions
    assert (r.y, r.height, r.x, r.width) == (5, 40, 8, 24)  # rows 1 to 9 of 10, columns 2 to 8 of 11
    assert (found.full_map() > 0.5).all()


def test_settings_of_a_prediction_reach_its_regions() -> None:
    values = np.zeros((9, 9), np.float32)
    values[2:5, 2:5], values[3, 3], values[7, 7] = 0.8, 1.2, 2
    base = {"path": None, "score": 1.0, "anomaly_map": values}
    assert Prediction(**base).regions is None and Prediction(**base).mask is None
    assert [r.area for r in Prediction(**base, pixel_threshold=1.0).regions or ()] == [1, 1]
    assert [r.area for r in Prediction(**base, pixel_threshold=1.0, hysteresis=0.75).regions or ()] == [9, 1]
    assert [r.area for r in Prediction(**base, pixel_threshold=1.0, hysteresis=0.75, min_area=2).regions or ()] == [9]
    assert Prediction(**base, pixel_threshold=2.0).regions == ()
    below = Prediction(**(base | {"anomaly_map": values - 3}), pixel_threshold=-2.0, hysteresis=0.85)  # low: -2.3
    assert [r.area for r in below.regions or ()] == [9, 1]
