"""Bootstrap intervals of metrics: how far the numbers would move with other test images of the same kinds.

A resample draws as many images as there are, with replacement, within each stratum (an image's type of defect, and
whether its pixels are known), so that no class goes missing. Whole images are drawn, never pixels: pixels of one image
depend on each other. The interval is that of percentiles (Efron and Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13).

For the pixel metrics each image is boiled down once to counts of its pixels in at most `BINS` bins of score. The counts
of a resample are the weighted sum over images, so that all resamples are one matrix product and no pixel is sorted
twice. Bins make the pixels in them ties; what that shifts is measured on the images as they are, where the exact value
is known, and taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.inputs import as_numbers

BINS = 4096
MAX_FPR = 0.3  # of AUPRO, as in metrics.aupro
_SAMPLE = 2_000_000  # pixels of each class that set the bins' edges
_STEP = 64  # resamples at a time: memory stays at some 64 x BINS numbers a table

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Per image and bin of score, the highest bin first.

    negatives, positives : [n, K] how many of each class.  gains : [n, K] for each anomalous pixel 1 / (size of its
    region), summed, or None.  regions : [n] connected regions of each image, or None.
    """

    negatives: Array
    positives: Array
    gains: Array | None = None
    regions: Array | None = None


def resample_weights(strata: Sequence[Any], resamples: int = 1000, seed: int = 0) -> Array:
    """How often each resample has each image: [resamples, n] whole numbers; every stratum keeps its size.

    Parameters
    ----------
    strata : [n] hashable names; images of equal names are drawn for each other.
    resamples : at least 1.
    seed : of NumPy's generator; nothing global is touched.

    Raises
    ------
    ValueError : no images, or fewer than 1 resample.
    """
    names = list(strata)
    if not names:
        raise ValueError("resample_weights: strata must name at least one image, got none")
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 1:
        raise ValueError(f"resample_weights: resamples must be a positive integer, got {resamples!r}")
    random = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(names)))
    for name in dict.fromkeys(names):
        members = np.array([i for i, other in enumerate(names) if other == name])
        weights[:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return weights


def image_counts(scores: Any, labels: Any) -> Counts:
    """Image scores [n] with labels [n] (1 anomalous, 0 normal, others count as neither) in one bin a distinct score."""
    s, y = np.asarray(as_numbers(scores), dtype=np.float64).ravel(), as_numbers(labels).ravel()
    if s.shape != y.shape or not len(s):
        raise ValueError(f"image_counts: one label a score is needed, got {len(s)} scores, {len(y)} labels")
    if not np.isfinite(s).all():
        raise ValueError(f"image_counts: scores must be finite, {int((~np.isfinite(s)).sum())} are not")
    _, where = np.unique(-s, return_inverse=True)
    own = np.zeros((len(s), int(where.max()) + 1))
    own[np.arange(len(s)), where.ravel()] = 1
    return Counts(own * (y == 0)[:, None], own * (y == 1)[:, None])


def pixel_counts(maps: Sequence[Any], masks: Sequence[Any], bins: int = BINS) -> Counts | None:
    """Maps [H, W] of n images and their masks (non-zero where anomalous; None where unknown) as counts in bins.

    An image without a mask counts nothing. A half of the bins has equal numbers of anomalous pixels, a quarter equal
    numbers of normal ones, and a quarter goes ever finer towards the highest of these, where average precision is
    decided.

    Returns
    -------
    The counts, or None where no pixel of one of the two classes is known.

    Raises
    ------
    ValueError : numbers or shapes that do not fit, or maps that are not finite.
    """
    from scipy import ndimage

    if len(maps) != len(masks):
        raise ValueError(f"pixel_counts: one mask a map is needed, got {len(maps)} maps, {len(masks)} masks")
    pairs = [(np.asarray(as_numbers(m), dtype=np.float32), None if t is None else as_numbers(t) != 0)
             for m, t in zip(maps, masks, strict=True)]  # fmt: skip
    for i, (score, truth) in enumerate(pairs):
        if score.ndim != 2 or (truth is not None and truth.shape != score.shape):
            raise ValueError(f"pixel_counts: image {i} has a map of shape {score.shape} and a mask of shape "
                             f"{None if truth is None else truth.shape}")  # fmt: skip
        if not np.isfinite(score).all():
            raise ValueError(f"pixel_counts: the map of image {i} is not finite")
    known = [(score, truth) for score, truth in pairs if truth is not None]
    positive = _sample([score[truth] for score, truth in known])
    negative = _sample([score[~truth] for score, truth in known])
    if not len(positive) or not len(negative):
        return None
    edges = _edges(negative, positive, bins)
    k = len(edges) + 1
    n = len(pairs)
    found = Counts(np.zeros((n, k)), np.zeros((n, k)), np.zeros((n, k)), np.zeros(n))
    assert found.gains is not None and found.regions is not None
    for i, (score, truth) in enumerate(pairs):
        if truth is None:
            continue
        bin_of = len(edges) - np.searchsorted(edges, score.ravel(), side="right")  # the highest bin is 0
        labels, regions = ndimage.label(truth, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=regions + 1)
        flat = truth.ravel()
        found.negatives[i] = np.bincount(bin_of[~flat], minlength=k)
        found.positives[i] = np.bincount(bin_of[flat], minlength=k)
        found.gains[i] = np.bincount(bin_of[flat], weights=1 / sizes[labels.ravel()[flat]], minlength=k)
        found.regions[i] = regions
    return found


def _sample(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """At most about _SAMPLE of the values, evenly over the images: enough for quantiles."""
    stride = max(sum(map(len, parts)) // _SAMPLE, 1)
    return np.concatenate([part[::stride] for part in parts]) if parts else np.empty(0, np.float32)


def _edges(negative: NDArray[np.float32], positive: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    high = 1 - np.geomspace(1, 1 / len(negative), bins // 4)
    return np.unique(np.concatenate([
        np.quantile(positive, np.linspace(0, 1, bins // 2)),
        np.quantile(negative, np.linspace(0, 1, bins // 4)),
        np.quantile(negative, high),
    ]).astype(np.float32))  # fmt: skip


def areas(weights: Array, counts: Counts) -> dict[str, Array]:
    """Metrics of weighted images: weights [B, n] -> "auroc", "ap", "f1" (the best one), and "aupro" with regions: [B].

    NaN for a row of weights that leaves one class out.
    """
    found: dict[str, list[Array]] = {}
    for begin in range(0, len(weights), _STEP):
        for name, values in _areas(weights[begin : begin + _STEP], counts).items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _areas(w: Array, counts: Counts) -> dict[str, Array]:
    step = w @ counts.positives
    fp, tp = np.cumsum(w @ counts.negatives, axis=1), np.cumsum(step, axis=1)
    positives, negatives = tp[:, -1:], fp[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        tpr, fpr = tp / positives, fp / negatives
        before_x, before_y = _before(fpr), _before(tpr)
        precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp > 0)
        result = {
            "auroc": ((fpr - before_x) * (tpr + before_y) / 2).sum(axis=1),
            "ap": (step * precision).sum(axis=1) / positives[:, 0],
            "f1": (2 * tp / (tp + fp + positives)).max(axis=1),
        }
        if counts.gains is not None and counts.regions is not None:
            pro = np.cumsum(w @ counts.gains, axis=1) / (w @ counts.regions)[:, None]
            # The share of each step that lies left of MAX_FPR, and the trapezoid over it.
            width = fpr - before_x
            share = np.divide(MAX_FPR - before_x, width, out=np.zeros_like(width), where=width > 0).clip(0, 1)
            before = _before(pro)
            result["aupro"] = (share * width * (before + share * (pro - before) / 2)).sum(axis=1) / MAX_FPR
    both = (positives[:, 0] > 0) & (negatives[:, 0] > 0)
    return {name: np.where(both, values, np.nan) for name, values in result.items()}


def _before(curve: Array) -> Array:
    return np.concatenate([np.zeros((len(curve), 1)), curve[:, :-1]], axis=1)


def interval(values: Array, level: float = 0.95, shift: float = 0.0) -> tuple[float, float] | None:
    """(low, high) percentiles that hold `level` of the resampled values + shift, within [0, 1]; None without any."""
    if not 0 < level < 1:
        raise ValueError(f"interval: level must be between 0 and 1, got {level!r}")
    known = values[np.isfinite(values)] + shift
    if not len(known):
        return None
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2)).clip(0, 1)
    return float(low), float(high)
