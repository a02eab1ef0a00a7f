"""How well scores tell anomalous from normal: AUROC, average precision, best F1 and IoU (scikit-learn), AUPRO, and
ADer's pixel metrics at fixed shares of the maps' range (docs/ader.md).

Scores may be arrays, tensors or lists of maps; larger means more anomalous. A metric that needs both classes
is NaN when one is missing, and the reason goes to the log.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchcore_fast.inputs import as_numbers

try:
    from scipy import ndimage
    from sklearn.metrics import auc, roc_curve
except ImportError as error:
    raise ImportError(
        'patchcore_fast.metrics needs scikit-learn and SciPy: pip install "patchcore_fast[pipeline]"'
    ) from error

logger = logging.getLogger("patchcore_fast")

# What is compared between models and tracked over epochs; larger is better for all of them.
HEADLINE = ("image_auroc", "image_ap", "image_f1", "pixel_auroc", "pixel_ap", "pixel_f1", "aupro", "pixel_iou_max")
# Names in ADer (zhangzjn/ADer, util/metric.py); "m" is there the mean over the classes. docs/ader.md says what differs.
ADER_NAMES = {
    "image_auroc": "mAUROC_sp_max",
    "image_ap": "mAP_sp_max",
    "image_f1": "mF1_max_sp_max",
    "pixel_auroc": "mAUROC_px",
    "pixel_ap": "mAP_px",
    "aupro": "mAUPRO_px",
    "pixel_f1_21": "mF1_max_px",
    "pixel_iou_21": "mIoU_max_px",
    "pixel_f1_02_08": "mF1_px_0.2_0.8_0.1",
    "pixel_recall_02_08": "mAcc_px_0.2_0.8_0.1",
    "pixel_iou_02_08": "mIoU_px_0.2_0.8_0.1",
}
ADER_PIXELS = ("pixel_f1_21", "pixel_iou_21", "pixel_f1_02_08", "pixel_recall_02_08", "pixel_iou_02_08")
SHARES_21 = np.arange(0.0, 1.0 + 1e-3, 0.05)  # as there, where 0.3 may be 0.30000000000000004
SHARES_02_08 = np.arange(0.2, 0.8 + 1e-3, 0.1)


@dataclass(frozen=True)
class BinaryCurve:
    """The ROC curve at every distinct score, and the numbers that follow from it (one sort serves them all).

    Attributes
    ----------
    fpr, tpr : [T] float64, rising.  thresholds : [T] falling, inf first: a score >= threshold counts as
        positive.
    positives, negatives : counts.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray
    positives: int
    negatives: int

    @property
    def auroc(self) -> float:
        """Area under the ROC curve."""
        return float(auc(self.fpr, self.tpr))

    @property
    def precision(self) -> np.ndarray:
        """[T - 1] precision at thresholds[1:]; recall there is tpr[1:]."""
        hits = self.tpr[1:] * self.positives
        return hits / (hits + self.fpr[1:] * self.negatives)

    @property
    def average_precision(self) -> float:
        """Sum of precision over steps of recall, not interpolated (scikit-learn's definition)."""
        return float(np.sum(np.diff(self.tpr) * self.precision))

    @property
    def best_f1(self) -> tuple[float, float]:
        """(threshold, F1) of the largest F1; the threshold lies halfway to the next lower score."""
        f1 = 2 * self.precision * self.tpr[1:] / (self.precision + self.tpr[1:]).clip(min=1e-300)
        best = int(np.argmax(f1)) + 1
        here = float(self.thresholds[best])
        if best + 1 == len(self.thresholds):
            return float(np.nextafter(here, -np.inf)), float(f1[best - 1])
        # Halfway, so that > and >= agree and rounding a score does not change its side.
        return (here + float(self.thresholds[best + 1])) / 2, float(f1[best - 1])

    def at_shares(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(F1, recall, IoU), [S] each, where a score counts as positive that lies above a share of the scores' range.

        shares : [S] of (score - lowest) / (highest - lowest). Where all scores are equal, none lies above any.
        """
        high, low = self.thresholds[1], self.thresholds[-1]

        def above(share: float) -> int:
            """The last point of the curve whose threshold is above; 0, the point of no positive, where none is."""
            if high == low:
                return 0
            return bisect_left(range(1, len(self.thresholds)), True,
                               key=lambda i: (self.thresholds[i] - low) / (high - low) <= share)  # fmt: skip

        last = [above(share) for share in shares]
        hits, alarms = self.tpr[last] * self.positives, self.fpr[last] * self.negatives
        union = self.positives + alarms
        return 2 * hits / (union + hits), self.tpr[last], hits / union


def iou_of_f1(f1: float) -> float:
    """Intersection over union of a verdict with this F1: F1 / (2 - F1). It rises with F1, so both are largest at one
    threshold."""
    return f1 / (2 - f1)


def ader_pixels(curve: BinaryCurve) -> dict[str, float]:
    """ADer's pixel metrics with fixed thresholds, by our names (ADER_NAMES), of the curve of all pixels of a class.

    Maps are scaled together, so that the lowest score of all is 0 and the highest 1. "..._21" is the largest value at
    the 21 thresholds 0, 0.05, ..., 1; "..._02_08" the mean over 0.2, 0.3, ..., 0.8. One pixel with a far higher score
    moves all of them. ADer adds 1e-8 to denominators, which moves a value by less than 2e-8.
    """
    f1, _, iou = curve.at_shares(SHARES_21)
    found = [f1.max(), iou.max(), *(values.mean() for values in curve.at_shares(SHARES_02_08))]
    return dict(zip(ADER_PIXELS, map(float, found), strict=True))


def binary_curve(scores: Any, labels: Any) -> BinaryCurve | None:
    """Curve of scores against 0/1 labels of the same shape; None (and a log line) when one class is missing.

    Raises
    ------
    ValueError : shapes differ, labels are not 0/1, or scores are not finite.
    """
    y, s = _flat("labels", labels), _flat("scores", scores)
    if len(y) != len(s):
        raise ValueError(f"metrics: got {len(s)} scores for {len(y)} labels")
    if y.dtype != bool:
        if not np.isin(y, (0, 1)).all():
            raise ValueError("metrics: labels must be 0 or 1")
        y = y.astype(bool)
    if not np.isfinite(s).all():
        raise ValueError(f"metrics: {int((~np.isfinite(s)).sum())} of {len(s)} scores are not finite")
    positives = int(y.sum())
    if positives in (0, len(y)):
        logger.info("metrics: undefined, all %d labels are %s", len(y), "positive" if positives else "negative")
        return None
    fpr, tpr, thresholds = roc_curve(y, s, drop_intermediate=False)
    return BinaryCurve(fpr, tpr, thresholds, positives, len(y) - positives)


def image_auroc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve of image scores [n] against labels [n]."""
    curve = binary_curve(scores, labels)
    return float("nan") if curve is None else curve.auroc


def pixel_auroc(maps: Any, masks: Any) -> float:
    """Area under the ROC curve over all pixels of maps [n, H, W] against masks [n, H, W]."""
    return image_auroc(maps, masks)


def average_precision(scores: Any, labels: Any) -> float:
    """Average precision of scores against labels, of images or of pixels."""
    curve = binary_curve(scores, labels)
    return float("nan") if curve is None else curve.average_precision


def best_f1(scores: Any, labels: Any) -> tuple[float, float]:
    """(threshold, F1) of the largest F1 score; (NaN, NaN) when one class is missing."""
    curve = binary_curve(scores, labels)
    return (float("nan"), float("nan")) if curve is None else curve.best_f1


def confusion_counts(scores: Any, labels: Any, threshold: float) -> dict[str, int]:
    """Images by label and verdict; positive is anomalous, as a label and as a score above the threshold.

    scores, labels : [n].

    Returns
    -------
    Counts of "true_positives", "false_negatives", "false_positives" and "true_negatives".
    """
    called, anomalous = _flat("scores", scores) > threshold, _flat("labels", labels) != 0
    groups = {
        "true_positives": called & anomalous,
        "false_negatives": ~called & anomalous,
        "false_positives": called & ~anomalous,
        "true_negatives": ~called & ~anomalous,
    }
    return {name: int(chosen.sum()) for name, chosen in groups.items()}


def pro_curve(maps: Any, masks: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Per-region overlap against false positive rate (Bergmann et al., "The MVTec Anomaly Detection Dataset",
    2021).

    Regions are the 8-connected components of each mask. At each threshold, overlap is the mean over all
    regions of the share of their pixels at or above it; the rate is that of all normal pixels of all images.

    Parameters
    ----------
    maps : [n, H, W] scores, or a list of maps.  masks : the same shapes, non-zero where anomalous.

    Returns
    -------
    (fpr, pro) : [T] float64 each, from (0, 0) to (1, 1); None without regions or without background.
    """
    maps, masks = list(maps), list(masks)
    if len(maps) != len(masks):
        raise ValueError(f"pro_curve: got {len(maps)} maps for {len(masks)} masks")
    scores, gains = [], []
    regions = 0
    for score, mask in zip(maps, masks, strict=True):
        score, mask = as_numbers(score), as_numbers(mask) != 0
        if score.shape != mask.shape or score.ndim != 2:
            raise ValueError(f"pro_curve: map of shape {score.shape} for a mask of shape {mask.shape}")
        labels, found = ndimage.label(mask, structure=np.ones((3, 3)))
        # Each anomalous pixel adds 1 / (size of its region); background, of gain 0, is counted apart.
        sizes = np.bincount(labels.ravel(), minlength=found + 1).astype(np.float64)
        share = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        share[0] = 0.0
        scores.append(score.ravel())
        gains.append(share[labels.ravel()])
        regions += found
    s = np.concatenate(scores) if scores else np.empty(0)
    gain = np.concatenate(gains) if gains else np.empty(0)
    background = int((gain == 0).sum())
    if not np.isfinite(s).all():
        raise ValueError(f"pro_curve: {int((~np.isfinite(s)).sum())} of {len(s)} scores are not finite")
    if regions == 0 or background == 0:
        logger.info("metrics: PRO is undefined, there %s", "are no regions" if regions == 0 else "is no background")
        return None
    order = np.argsort(s)[::-1]
    s, gain = s[order], gain[order]
    last = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)  # equal scores pass a threshold together
    pro = np.cumsum(gain)[last] / regions
    fpr = np.cumsum(gain == 0)[last] / background
    return np.append(0.0, fpr), np.append(0.0, pro.clip(max=1.0))


def aupro(maps: Any, masks: Any, max_fpr: float = 0.3) -> float:
    """Area under `pro_curve` up to the false positive rate `max_fpr`, divided by it: 1 is perfect.

    The curve is integrated by trapezoids and cut at `max_fpr` by linear interpolation, as MVTec's evaluation
    does. NaN without anomalous pixels or without background.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"aupro: max_fpr must be in (0, 1], got {max_fpr}")
    curve = pro_curve(maps, masks)
    return float("nan") if curve is None else aupro_of(*curve, max_fpr=max_fpr)


def aupro_of(fpr: np.ndarray, pro: np.ndarray, max_fpr: float = 0.3) -> float:
    """`aupro` of a curve that is there already."""
    inside = int(np.searchsorted(fpr, max_fpr, side="right"))
    x, y = fpr[:inside], pro[:inside]
    if x[-1] < max_fpr:
        slope = (pro[inside] - y[-1]) / (fpr[inside] - x[-1])
        x, y = np.append(x, max_fpr), np.append(y, y[-1] + slope * (max_fpr - x[-1]))
    return float(auc(x, y) / max_fpr)


def thin(*curves: np.ndarray, points: int = 1000) -> list[list[float]]:
    """The same at most `points` indices of each curve, evenly along the first one's values, for plots and
    JSON."""
    x = curves[0]
    if len(x) <= points:
        return [np.asarray(c, dtype=float).tolist() for c in curves]
    half = points // 2
    # Half by value, half by position: a curve has its detail where its values hardly move.
    wanted = np.unique(
        np.r_[np.searchsorted(x, np.linspace(x[0], x[-1], half)), np.linspace(0, len(x) - 1, half).astype(int)]
    )
    return [np.asarray(c, dtype=float)[wanted].tolist() for c in curves]


def _flat(name: str, values: Any) -> np.ndarray:
    if isinstance(values, Sequence) and any(getattr(v, "ndim", None) or isinstance(v, Sequence) for v in values):
        array = np.concatenate([as_numbers(v).ravel() for v in values])  # maps, which may differ in size
    else:
        array = as_numbers(values).ravel()
    if array.dtype.kind not in "fiub":
        raise TypeError(f"metrics: {name} must be numbers, got {array.dtype}")
    return array
