"""ADer's own evaluator (util/metric.py of zhangzjn/ADer) against our metrics of the same maps."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
import warnings

import numpy as np
import pytest

from patchcore_fast import metrics

from .repositories import peer_module

# What the module imports and the evaluator without adeval does not use: where it is missing, an empty one stands in.
UNUSED = (("numba", "jit"), ("adeval", "EvalAccumulatorCuda"), ("tensorboardX", "SummaryWriter"))


@pytest.fixture
def theirs(monkeypatch):
    for package, name in UNUSED:
        if importlib.util.find_spec(package) is None:
            stand_in = types.ModuleType(package)
            stand_in.__spec__ = importlib.machinery.ModuleSpec(package, None)
            setattr(stand_in, name, None)
            monkeypatch.setitem(sys.modules, package, stand_in)
    return peer_module("util.metric").Evaluator


def material(seed, dtype):
    """Masks [n, 32, 32] of a few rectangles in every other image, and noisy maps of them."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((8, 32, 32), int)
    for mask in masks[::2]:
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, 24, 2)
            mask[y : y + rng.integers(2, 8), x : x + rng.integers(2, 8)] = 1
    maps = (1.0 * masks + rng.normal(0, 0.7, masks.shape)).astype(dtype)
    return maps, masks


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_aders(theirs, dtype, seed):
    maps, masks = material(seed, dtype)
    results = {"cls_names": np.array(["nut"] * len(maps)), "imgs_masks": masks[:, None], "anomaly_maps": maps,
               "anomalys": masks.max(axis=(1, 2))}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 of their precision and recall
        want = theirs(max_step_aupro=100).run(results, "nut")
    image = metrics.binary_curve(maps.max(axis=(1, 2)), masks.max(axis=(1, 2)))
    pixel = metrics.binary_curve(maps, masks)
    assert image is not None and pixel is not None
    got = {"image_auroc": image.auroc, "image_ap": image.average_precision, "image_f1": image.best_f1[1],
           "pixel_auroc": pixel.auroc, "pixel_ap": pixel.average_precision,
           "aupro": metrics.aupro(maps, masks)} | metrics.ader_pixels(pixel)  # fmt: skip
    assert set(metrics.ADER_NAMES) == set(got) and set(metrics.ADER_NAMES.values()) == set(want)
    gaps = {name: got[name] - want[theirs] for name, theirs in metrics.ADER_NAMES.items()}
    # 100 thresholds, from the first rate above 0 to the last below 0.3. docs/ader.md has the figures.
    assert 0.0035 < gaps.pop("aupro") < 0.0135
    assert max(map(abs, gaps.values())) < 1e-7, gaps
    assert metrics.iou_of_f1(pixel.best_f1[1]) >= want["mIoU_max_px"]
