"""What predict and evaluate hand back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from patchcore_fast.data import ImageRecord
from patchcore_fast.regions import Region, find_regions, regions_mask
from patchcore_fast.scoring import map_to_image


@dataclass(frozen=True)
class Prediction:
    """The verdict on one image.

    Attributes
    ----------
    path : the file, or None for images given as tensors.
    score : image score; larger is more anomalous. Its unit is that of the config (a feature distance).
    anomaly_map : [H, W] float32 at the model's input size (`PatchCoreConfig.input_size`), or where that differs from
        image to image at the size to which this one was resized; [0, 0] where it was predicted without maps.
    is_anomalous : score > threshold, or None when the model has no threshold.
    original_size : (height, width) of the file as displayed, or None.
    resized_to : (height, width) before the centre crop; equals the map's size when there is no crop.
    error : why the file could not be used, None where it could (on_error="return" only). Score and map are then NaN.
    pixel_threshold : value of the map above which a pixel is anomalous, or None when the model has none.
    hysteresis, min_area : of the regions, see `config.DecisionSettings`.
    """

    path: Path | None
    score: float
    anomaly_map: np.ndarray
    is_anomalous: bool | None = None
    original_size: tuple[int, int] | None = None
    resized_to: tuple[int, int] | None = None
    error: str | None = None
    pixel_threshold: float | None = None
    hysteresis: float = 1.0
    min_area: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that regions and mask are in: of the file as displayed, of the map for tensors."""
        return self.original_size or (self.anomaly_map.shape[0], self.anomaly_map.shape[1])

    @cached_property
    def regions(self) -> tuple[Region, ...] | None:
        """Regions of the image above the pixel threshold, in pixels of `size`; None when the model has none.

        They are those of `full_map`, but for what a centre crop left out: that is in no region.
        """
        t = self.pixel_threshold
        if t is None:
            return None
        low = t - (1 - self.hysteresis) * abs(t)  # also where a method's maps are negative it lies below
        if not (self.anomaly_map > t).any():  # most images of a line: between its values a bilinear map has no others
            return ()
        laid = map_to_image(self.anomaly_map, self.size, self.resized_to, outside=-math.inf)
        return find_regions(laid, t, low=low, min_area=self.min_area)

    @property
    def mask(self) -> np.ndarray | None:
        """[H0, W0] bool of `size`, True in the regions; None when the model has no pixel threshold."""
        return None if self.regions is None else regions_mask(self.regions, self.size)

    def full_map(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The map laid over the whole image, [H0, W0] float32, for overlays.

        Pixels outside a centre crop were never looked at; they hold the map's minimum.

        Parameters
        ----------
        size : (H0, W0), that of a smaller copy of the photograph; the file's own when None.

        Raises
        ------
        ValueError : it was predicted without maps.
        """
        if not self.anomaly_map.size:
            raise ValueError("Prediction.full_map: it was predicted without maps (maps=False)")
        size = size or self.original_size
        return self.anomaly_map if size is None else map_to_image(self.anomaly_map, size, self.resized_to)


@dataclass
class Evaluation:
    """Metrics and their raw material.

    Attributes
    ----------
    metrics : image_auroc, image_ap, image_f1, image_f1_threshold, pixel_auroc, pixel_ap, pixel_f1,
        pixel_f1_threshold, pixel_iou_max (at that threshold too), aupro (fractions, not percent); those of
        `metrics.ADER_PIXELS`; threshold (the bank's) and at that threshold the counts true_positives, false_negatives,
        false_positives and true_negatives (positive is anomalous), accuracy, and the interval expected_low to
        expected_high of the share of false alarms by the held-out training images; n_test (images scored), n_unread
        (images that could not be), n_masks; pixel_threshold, and of the regions above it, on the n_region_images images
        whose pixels are known: true_regions (of the masks), regions_found (those that a region overlaps) and
        regions_found_iou (by an intersection over union of at least `regions.IOU`), region_recall and
        region_recall_iou (the shares of these), false_regions (that overlap no true one), false_regions_per_image, and
        false_regions_per_normal_image (of those on normal images). What is not known is NaN, as a metric that needs
        both classes is when only one is there.
    images : one row per image that was scored, named as the columns of scores.csv (`report.scores_csv.COLUMNS`): path
        (relative to the set's root, or its name), label (0 normal, 1 anomalous, -1 unknown), defect_type ("" unless
        anomalous), score, is_anomalous (None without a threshold), error (None, or why its mask could not be used: its
        pixels are then in no metric).
    curves : "scores" and "labels" of the images; "image_roc", "pixel_roc" {"fpr", "tpr"}, "image_pr", "pixel_pr"
        {"recall", "precision"} and "pro" {"fpr", "pro"}, thinned to at most 1,000 points each; a curve that cannot be
        drawn is absent.
    timings : seconds by stage.
    unread : one row per image that could not be read and is in no metric: path, label, defect_type, error.
    predictions : the predictions in the order of `images` (their maps are at the input size).
    records : their ImageRecords, without a mask that could not be read; None for images given as tensors.
    """

    metrics: dict[str, float]
    images: list[dict[str, Any]]
    curves: dict[str, Any]
    config: dict[str, Any]
    timings: dict[str, float]
    predictions: list[Prediction] = field(repr=False, default_factory=list)
    unread: list[dict[str, Any]] = field(default_factory=list)
    records: list[ImageRecord | None] = field(repr=False, default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps, in types `json.dumps(..., allow_nan=False)` takes; NaN becomes None."""
        plain: dict[str, Any] = _plain({name: getattr(self, name) for name in _PLAIN})
        return plain


_PLAIN = ("metrics", "images", "unread", "curves", "config", "timings")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
