"""Areas under curves, exactly, and under bootstrap resamples of the test images.

A resample draws as many images as there are, with replacement, within each stratum (good, defective with a mask,
defective without), so that no class goes missing: it is a weight (0, 1, 2, ...) for every image. Pixels are never
resampled on their own, they depend on each other. For the pixel metrics each image is boiled down once to counts of
its pixels in some thousand bins of score (defect-free pixels, defective pixels, and their shares of their regions);
the counts of a resample are the weighted sum over images, one matrix product for all resamples. Bins make the pixels in
them ties. What that shifts is measured on the images as they are, where the exact value is known, and taken off.

All samplers of a set see the same resamples. With images moved into training a resample takes the draws that it would
have taken without, leaving out what is not there, so that seeds and contaminations are paired as far as can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.accuracy.sets import Truth, number_of
from patchcore_fast.metrics import aupro_of

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")
NAMES = dict(zip(METRICS, ("image AUROC", "image AP", "pixel AUROC", "pixel AP", "AUPRO"), strict=True))
MAX_FPR = 0.3
BINS = 4096
LEVEL = 0.95


def resamples(truth: Truth, kept: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Weights [count, m] float32: how often each resample has each test image; 0 where not `kept` [m]."""
    weights = np.zeros((count, len(kept)), dtype=np.float32)
    for stratum in np.unique(truth.strata[kept]):
        members = np.flatnonzero(truth.strata == stratum)
        wanted = int(kept[members].sum())
        for b in range(count):
            random = np.random.default_rng([seed, number_of(truth.name), int(stratum), b])
            taken = np.empty(0, dtype=np.int64)
            while len(taken) < wanted:
                drawn = members[random.integers(len(members), size=2 * len(members))]
                taken = np.append(taken, drawn[kept[drawn]])
            weights[b] += np.bincount(taken[:wanted], minlength=len(kept)).astype(np.float32)
    return weights


@dataclass(frozen=True)
class Counts:
    """Per image and bin of score, the highest bin first: negatives, positives, gains [n, K]; regions [n] or None."""

    negatives: np.ndarray
    positives: np.ndarray
    gains: np.ndarray | None = None
    regions: np.ndarray | None = None


def areas(weights: np.ndarray, counts: Counts) -> np.ndarray:
    """Metrics of weighted images: [B, n] -> [B, 2] AUROC and average precision, and AUPRO as a third with gains."""
    fp = np.cumsum(weights @ counts.negatives, axis=1, dtype=np.float64)
    step = (weights @ counts.positives).astype(np.float64)
    tp = np.cumsum(step, axis=1)
    positives, negatives = tp[:, -1:], fp[:, -1:]
    tpr, fpr = tp / positives, fp / negatives
    before_y, before_x = _before(tpr), _before(fpr)
    auroc = ((fpr - before_x) * (tpr + before_y) / 2).sum(axis=1)
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp > 0)
    result = [auroc, (step * precision).sum(axis=1) / positives[:, 0]]
    if counts.gains is not None:
        pro = np.cumsum(weights @ counts.gains, axis=1, dtype=np.float64) / (weights @ counts.regions)[:, None]
        # The share of each step that lies left of MAX_FPR, and the trapezoid over it.
        width = fpr - before_x
        inside = np.divide(MAX_FPR - before_x, width, out=np.zeros_like(width), where=width > 0).clip(0, 1)
        before = _before(pro)
        result.append((inside * width * (before + inside * (pro - before) / 2)).sum(axis=1) / MAX_FPR)
    return np.stack(result, axis=1)


def _before(curve: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((len(curve), 1)), curve[:, :-1]], axis=1)


def exact_areas(negative: np.ndarray, positive: np.ndarray, gains: np.ndarray | None, regions: float) -> list[float]:
    """AUROC, average precision, and with `gains` AUPRO, of scores of negatives and positives.

    The same as patchcore_fast.metrics gives (cells.agree holds them together). Curves turn only where a
    positive score is, so sorting the negatives by value is all that is needed: some ten times less work than the two
    sorts of all pixels with their labels there.
    """
    negative = np.sort(negative)
    order = np.argsort(positive)[::-1]
    scores = positive[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # equal scores pass a threshold together
    at, tp = scores[last], (last + 1).astype(np.float64)
    before_fp = len(negative) - np.searchsorted(negative, at, side="right").astype(np.float64)
    fp = len(negative) - np.searchsorted(negative, at, side="left").astype(np.float64)
    step = np.diff(tp, prepend=0.0)
    found = [
        1 - float((step * (before_fp + fp)).sum() / 2 / len(positive) / len(negative)),
        float((step * tp / (tp + fp)).sum() / len(positive)),
    ]
    if gains is not None:
        pro = np.cumsum(gains[order], dtype=np.float64)[last] / regions
        x = np.stack([before_fp, fp], axis=1).ravel() / len(negative)
        y = np.stack([np.append(0.0, pro[:-1]), pro], axis=1).ravel()
        found.append(aupro_of(np.r_[0.0, x, 1.0], np.r_[0.0, y, 1.0].clip(max=1.0), MAX_FPR))
    return found


def image_counts(scores: np.ndarray, labels: np.ndarray) -> Counts:
    """Image scores [n] as counts, one bin for each distinct score: nothing is lost."""
    _, where = np.unique(-scores, return_inverse=True)
    own = np.zeros((len(scores), int(where.max()) + 1), dtype=np.float32)
    own[np.arange(len(scores)), where.ravel()] = 1
    return Counts(own * ~labels[:, None], own * labels[:, None])


def pixel_counts(maps: np.ndarray, masks: np.ndarray, gains: np.ndarray, regions: np.ndarray) -> Counts:
    """Score maps [n, S, S] as counts in about BINS bins.

    Their edges are quantiles: a half of those of defective pixels, a quarter of those of defect-free ones, and a
    quarter that goes ever finer towards the highest of these, where average precision is decided.
    """
    negative, positive = np.sort(maps[~masks]), np.sort(maps[masks])
    tail = 1 - np.geomspace(1 / len(negative), 1, BINS // 4)
    edges = np.unique(np.concatenate([
        positive[(np.linspace(0, 1, BINS // 2) * (len(positive) - 1)).astype(int)],
        negative[(np.linspace(0, 1, BINS // 4) * (len(negative) - 1)).astype(int)],
        negative[(tail * (len(negative) - 1)).astype(int)],
    ]))  # fmt: skip
    n, size = len(maps), len(edges) + 1
    bins = np.searchsorted(edges, maps.reshape(n, -1), side="right")
    bins = len(edges) - bins + size * np.arange(n)[:, None]
    flat = masks.reshape(n, -1)

    def count(chosen: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        found = np.bincount(bins[chosen], None if weights is None else weights.reshape(n, -1)[chosen], n * size)
        return found.reshape(n, size).astype(np.float32)

    return Counts(count(~flat), count(flat), count(flat, gains), regions.astype(np.float32))


def measure(
    truth: Truth, kept: np.ndarray, weights: np.ndarray, scores: np.ndarray, maps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """All metrics of one selection.

    Parameters
    ----------
    kept : [m] bool, the tested images.  weights : [B, m] of `resamples`.
    scores : [m] image scores.  maps : [m, S, S]; only those of tested images are looked at.

    Returns
    -------
    values [5] in the order of METRICS (NaN: undefined, no masks), resampled values [B, 5], and the largest difference
    between exact and binned pixel metrics, which has been taken off the resampled ones.
    """
    values, replicates = np.full(5, np.nan), np.full((len(weights), 5), np.nan)
    labels = truth.labels[kept]
    values[:2] = exact_areas(scores[kept][~labels], scores[kept][labels], None, 0)
    replicates[:, :2] = areas(weights[:, kept], image_counts(scores[kept], labels))
    seen = kept & truth.known
    masks = truth.masks[seen]
    if not masks.any() or masks.all():
        return values, replicates, 0.0
    seen_maps, gains, regions = maps[seen], truth.gains[seen], truth.regions[seen]
    values[2:] = exact_areas(seen_maps[~masks], seen_maps[masks], gains[masks], float(regions.sum()))
    counts = pixel_counts(seen_maps, masks, gains, regions)
    shift = values[2:] - areas(np.ones((1, int(seen.sum())), dtype=np.float32), counts)[0]
    replicates[:, 2:] = areas(weights[:, seen], counts) + shift
    return values, replicates, float(np.abs(shift).max())


def image_auroc(truth: Truth, kept: np.ndarray, weights: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Image AUROC of the kept images alone, and its resampled values [B]; arguments as of `measure`."""
    labels = truth.labels[kept]
    value = exact_areas(scores[kept][~labels], scores[kept][labels], None, 0)[0]
    return value, areas(weights[:, kept], image_counts(scores[kept], labels))[:, 0]


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The middle LEVEL of resampled values [B] (percentiles)."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)
