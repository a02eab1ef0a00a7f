"""Metrics against scikit-learn and against definitions spelled out threshold by threshold."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from patchcore_fast import metrics

RNG = np.random.default_rng(7)
LABELS = RNG.random(400) < 0.2
SCORES = {
    "distinct": LABELS + RNG.normal(0, 1, 400),
    "tied": np.round(LABELS + RNG.normal(0, 1, 400)),
    "constant": np.zeros(400),
    "perfect": LABELS * 1.0,
    "reversed": LABELS * -1.0,
    "float32": (LABELS + RNG.normal(0, 1, 400)).astype(np.float32),
}


@pytest.mark.parametrize("kind", SCORES)
def test_agrees_with_sklearn(kind: str) -> None:
    scores = SCORES[kind]
    assert metrics.image_auroc(scores, LABELS) == pytest.approx(sk.roc_auc_score(LABELS, scores), abs=1e-12)
    assert metrics.average_precision(scores, LABELS) == pytest.approx(
        sk.average_precision_score(LABELS, scores), abs=1e-12
    )
    threshold, f1 = metrics.best_f1(scores, LABELS)
    every = [sk.f1_score(LABELS, scores >= t) for t in np.unique(scores)]
    assert f1 == pytest.approx(max(every), abs=1e-12)
    assert sk.f1_score(LABELS, scores >= threshold) == pytest.approx(f1, abs=1e-12)
    assert sk.f1_score(LABELS, scores > threshold) == pytest.approx(f1, abs=1e-12)


def test_pixel_metrics_take_lists_arrays_and_tensors() -> None:
    masks = RNG.random((3, 8, 8)) < 0.3
    maps = (masks + RNG.normal(0, 1, (3, 8, 8))).astype(np.float32)
    want = sk.roc_auc_score(masks.ravel(), maps.ravel())
    for scores, truth in ((maps, masks), (list(maps), list(masks)), (torch.tensor(maps), torch.tensor(masks).int())):
        assert metrics.pixel_auroc(scores, truth) == pytest.approx(want, abs=1e-12)


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """8-connected components by flood fill."""
    left, found = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        todo, part = [left.pop()], np.zeros(mask.shape, bool)
        while todo:
            y, x = todo.pop()
            part[y, x] = True
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(part)
    return found


def _aupro_by_hand(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """Every threshold in turn: mean covered share of the regions against the false positive rate; trapezoids."""
    parts = [(i, part) for i, mask in enumerate(masks) for part in _regions(mask)]
    points = [(0.0, 0.0)]
    for t in np.unique(maps)[::-1]:
        hit = maps >= t
        pro = np.mean([hit[i][part].mean() for i, part in parts])
        points.append((hit[~masks].mean(), pro))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
def test_aupro_is_its_definition(limit: float, tied: bool) -> None:
    rng = np.random.default_rng(3)
    masks = np.zeros((4, 12, 12), bool)
    masks[0, 2:5, 2:5] = masks[0, 5, 5] = True  # they touch at a corner: one region
    masks[0, 9, 9] = masks[1, 3:10, 6] = masks[1, 11, 0:3] = True
    maps = masks * 1.0 + rng.normal(0, 1, masks.shape)
    maps = np.round(maps) if tied else maps
    assert len(_regions(masks[0])) == 2
    assert metrics.aupro(maps, masks, limit) == pytest.approx(_aupro_by_hand(maps, masks, limit), abs=1e-12)


def test_aupro_of_perfect_and_of_constant_maps() -> None:
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 3:6, 3:9] = True
    assert metrics.aupro(masks.astype(np.float32), masks) == pytest.approx(1.0)
    assert metrics.aupro(np.ones((2, 16, 16)), masks) == pytest.approx(0.15)  # the diagonal up to 0.3


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]], ids=["all normal", "all defective"])
def test_one_class_is_nan_and_says_so(labels: list[int], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="patchcore_fast"):
        assert np.isnan(metrics.image_auroc([0.1, 0.2, 0.3], labels))
        assert np.isnan(metrics.best_f1([0.1, 0.2, 0.3], labels)).all()
        masks = np.array(labels, bool).reshape(1, 1, 3)
        assert np.isnan(metrics.aupro(np.ones((1, 1, 3)), masks))
    assert "undefined" in caplog.text


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=2, max_size=40))
def test_only_the_order_of_scores_counts(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([s for s, _ in pairs], float)
    labels = np.array([label for _, label in pairs])
    if labels.all() or not labels.any():
        assert np.isnan(metrics.image_auroc(scores, labels))
        return
    bent = np.exp(scores / 5)
    assert metrics.image_auroc(bent, labels) == pytest.approx(metrics.image_auroc(scores, labels))
    assert metrics.average_precision(bent, labels) == pytest.approx(metrics.average_precision(scores, labels))
    assert metrics.best_f1(bent, labels)[1] == pytest.approx(metrics.best_f1(scores, labels)[1])
    assert metrics.image_auroc(-scores, labels) == pytest.approx(1 - metrics.image_auroc(scores, labels))


def test_thinned_curves_keep_their_ends_and_shape() -> None:
    x = np.linspace(0, 1, 50_000) ** 3
    thin_x, thin_y = metrics.thin(x, np.sqrt(x))
    assert len(thin_x) <= 1000 and (thin_x[0], thin_x[-1]) == (0.0, 1.0)
    assert np.trapezoid(thin_y, thin_x) == pytest.approx(2 / 3, abs=1e-3)
