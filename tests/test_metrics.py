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
from patchcore_fast.bootstrap import image_counts, pixel_counts

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


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]], ids=["all normal", "all anomalous"])
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


Y = [0, 1, 0, 1, 1]
S = [0.125, 0.875, 0.75, 0.25, 0.5]  # which bfloat16 holds too
FORMS = {
    "array": np.array(S), "tuple": tuple(S), "float32": torch.tensor(S), "bfloat16": torch.tensor(S).bfloat16(),
    "float16": torch.tensor(S).half(), "gradient": torch.tensor(S, requires_grad=True),
    "of a gradient": torch.tensor(S, requires_grad=True) * 1, "negated view": torch._neg_view(-torch.tensor(S)),
    "scalars": [torch.tensor(s) for s in S],
    "scalars with gradients": [torch.tensor(s, requires_grad=True) for s in S],
    "a mixture": [torch.tensor(S[0]).bfloat16(), S[1], np.float32(S[2]), torch.tensor(S[3], requires_grad=True), S[4]],
    "parts": [torch.tensor(S[:2], requires_grad=True), np.array(S[2:4]), S[4:]],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_scores_in_any_form(form: str) -> None:
    tensor = torch.tensor(Y)
    for labels in (Y, tensor, tensor.bool(), tensor.bfloat16(), [torch.tensor(y) for y in Y]):
        assert metrics.image_auroc(FORMS[form], labels) == metrics.image_auroc(S, Y)
        assert metrics.average_precision(FORMS[form], labels) == metrics.average_precision(S, Y)
        assert metrics.best_f1(FORMS[form], labels) == metrics.best_f1(S, Y)
    counts = image_counts(FORMS[form] if form != "parts" else S, Y)
    assert np.array_equal(counts.positives, image_counts(S, Y).positives)


def test_maps_in_any_form() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 100, (3, 6, 8), generator=generator) / 128
    masks = torch.rand(3, 6, 8, generator=generator) > 0.7
    wanted = metrics.aupro(maps.numpy(), masks.numpy()), metrics.pixel_auroc(maps.numpy(), masks.numpy())
    for form in (maps.clone().requires_grad_(), maps.bfloat16(), list(maps.bfloat16()), list(maps.half().numpy())):
        for truth in (masks, list(masks), masks.bfloat16(), list(masks.numpy())):
            assert (metrics.aupro(form, truth), metrics.pixel_auroc(form, truth)) == wanted
    sizes = [maps[0].requires_grad_(), maps[1, :3].bfloat16()], [masks[0], masks[1, :3]]
    assert 0 <= metrics.pixel_auroc(*sizes) <= 1
    assert pixel_counts(*sizes) is not None


@pytest.mark.parametrize("bad, error", [
    (torch.tensor(S).to(torch.complex64), TypeError), (["a"] * 5, TypeError), ([None] * 5, TypeError),
    ([torch.tensor(1.0), torch.tensor([1.0, 2.0])], ValueError),
], ids=["complex", "text", "none", "too few"])  # fmt: skip
def test_scores_that_are_none(bad: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="metrics: "):
        metrics.image_auroc(bad, Y)


def _ader(maps: np.ndarray, masks: np.ndarray, shares: np.ndarray) -> list[tuple[float, float, float]]:
    """(F1, recall, IoU) as ADer counts them: maps scaled together to [0, 1], then each threshold over all pixels."""
    scaled = (maps - maps.min()) / (maps.max() - maps.min())
    rows = []
    for share in shares:
        called = scaled > share
        hits, either = np.logical_and(called, masks).sum(), np.logical_or(called, masks).sum()
        rows.append((2 * hits / (called.sum() + masks.sum()), hits / masks.sum(), hits / either))
    return rows


@pytest.mark.parametrize("form", ["distinct", "tied", "one bright pixel", "one dark pixel", "reversed"])
def test_aders_pixel_metrics_are_their_definition(form: str) -> None:
    rng = np.random.default_rng(5)
    masks = rng.random((3, 16, 16)) < 0.1
    maps = masks + rng.normal(0, 0.5, masks.shape)
    maps = {"tied": np.round(maps * 2), "reversed": -maps}.get(form, maps)  # tied: scores on the thresholds themselves
    maps[0, 0, 0] = {"one bright pixel": 100.0, "one dark pixel": -100.0}.get(form, maps[0, 0, 0])
    curve = metrics.binary_curve(maps, masks)
    assert curve is not None
    found = metrics.ader_pixels(curve)
    grid = np.array(_ader(maps, masks, np.arange(0, 1 + 1e-3, 0.05)))
    middle = np.array(_ader(maps, masks, np.arange(0.2, 0.8 + 1e-3, 0.1)))
    assert len(grid) == 21 and len(middle) == 7
    wanted = [grid[:, 0].max(), grid[:, 2].max(), *middle.mean(axis=0)]
    assert list(found) == list(metrics.ADER_PIXELS)
    assert list(found.values()) == pytest.approx(wanted, abs=1e-12)
    exact = metrics.iou_of_f1(curve.best_f1[1])  # of all thresholds, so never below that of 21
    assert exact == pytest.approx(max(row[2] for row in _ader(maps, masks, np.r_[-1.0, np.unique(
        (maps - maps.min()) / (maps.max() - maps.min()))])), abs=1e-12)  # fmt: skip
    assert exact >= found["pixel_iou_21"] == pytest.approx(metrics.iou_of_f1(found["pixel_f1_21"]), abs=1e-12)


def test_aders_metrics_of_constant_maps_are_zero() -> None:
    curve = metrics.binary_curve(np.ones((1, 4, 4)), np.eye(4)[None])
    assert curve is not None and set(metrics.ader_pixels(curve).values()) == {0.0}


def test_every_metric_that_is_compared_has_a_name() -> None:
    assert set(metrics.ADER_PIXELS) < set(metrics.ADER_NAMES) < {*metrics.ADER_PIXELS, *metrics.HEADLINE}
    assert len(set(metrics.ADER_NAMES.values())) == len(metrics.ADER_NAMES)
