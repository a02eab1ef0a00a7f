"""Predictions and truth to an Evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcore_fast import metrics
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.methods import MethodConfig
from patchcore_fast.data import ImageRecord, load_truth
from patchcore_fast.errors import DataError
from patchcore_fast.model.batches import Batch
from patchcore_fast.model.results import Evaluation, Prediction
from patchcore_fast.model.threshold import Decided, false_alarm_interval, held_out
from patchcore_fast.regions import Matched, match_regions
from patchcore_fast.scoring import seen_box

_NAN = float("nan")
REGIONS = (
    "true_regions", "regions_found", "regions_found_iou", "region_recall", "region_recall_iou", "false_regions",
    "false_regions_per_image", "false_regions_per_normal_image", "n_region_images",
)  # fmt: skip


def evaluate_batches(
    batches: Iterable[Batch],
    predict: Callable[[Batch], Iterable[Prediction]],
    name: Callable[[Path], str],
    bank: Decided,
    config: PatchCoreConfig | MethodConfig,
) -> Evaluation:
    """Predict every batch, then see `evaluate_predictions`. Of the settings, the selection is the bank's own."""
    clock = time.perf_counter()
    predictions: list[Prediction] = []
    seen: list[Batch] = []
    for batch in batches:
        predictions += predict(batch)
        seen.append(replace(batch, images=batch.images[:0].clone()))  # only the truth is wanted; a view holds it all
    taken = time.perf_counter() - clock
    expected = None if bank.threshold is None else false_alarm_interval(held_out(bank), bank.threshold)
    if bank.config and isinstance(config, PatchCoreConfig):
        config = config.replace(selection=PatchCoreConfig.from_dict(bank.config).selection)
    return evaluate_predictions(predictions, seen, name, bank.threshold, expected, config, taken)


def evaluate_predictions(
    predictions: Sequence[Prediction],
    batches: Sequence[Batch],
    name: Callable[[Path], str],
    threshold: float | None,
    expected: tuple[float, float] | None,
    config: PatchCoreConfig | MethodConfig,
    seconds: float,
) -> Evaluation:
    """Build the Evaluation of predictions that came from `batches`, in the same order.

    `name` turns paths into names for the report. Image metrics take the images whose label is known, pixel metrics
    those whose every pixel is known: normal images, and anomalous ones with a mask. Images that could not be read are
    listed apart and are in no metric. `expected` is what `threshold.false_alarm_interval` says of the threshold.
    """
    clock = time.perf_counter()
    items = [item for batch in batches for item in _items(batch)]
    rows, unread = [], []
    for p, item in zip(predictions, items, strict=True):
        path, truth_of = name(p.path) if p.path else "", {"label": item.label, "defect_type": item.defect_type}
        if p.error is None:
            verdict = {"score": p.score, "is_anomalous": p.is_anomalous}
            rows.append({"path": path} | verdict | truth_of | {"error": item.mask_error})
        else:
            unread.append({"path": path} | truth_of | {"error": p.error})
    if unread and not rows:
        raise DataError(f"PatchCore.evaluate: none of {len(unread)} test images can be read; {unread[0]['error']}")
    read = [(p, item) for p, item in zip(predictions, items, strict=True) if p.error is None]
    predictions, items = [p for p, _ in read], [item for _, item in read]
    labels = [item.label for item in items]
    if not any(label >= 0 for label in labels):
        raise DataError("PatchCore.evaluate: no image has a label")
    known = [(p.score, label) for p, label in zip(predictions, labels, strict=True) if label >= 0]
    scores, truth = [score for score, _ in known], [label for _, label in known]
    values: dict[str, float] = {}
    curves: dict[str, Any] = {"scores": scores, "labels": truth}
    _binary("image", scores, truth, values, curves)
    masks = [item.mask for item in items]
    pairs = [(p.anomaly_map, m) for p, m in zip(predictions, masks, strict=True) if m is not None]
    maps = [m for m, _ in pairs]
    pixels = _binary("pixel", maps, [m for _, m in pairs], values, curves)
    values["pixel_iou_max"] = metrics.iou_of_f1(values["pixel_f1"])
    values |= dict.fromkeys(metrics.ADER_PIXELS, _NAN) if pixels is None else metrics.ader_pixels(pixels)
    pro = metrics.pro_curve(maps, [m for _, m in pairs]) if maps else None
    values["aupro"] = _NAN if pro is None else metrics.aupro_of(*pro)
    if pro is not None:
        curves["pro"] = dict(zip(("fpr", "pro"), metrics.thin(*pro), strict=True))
    values["threshold"] = _NAN if threshold is None else threshold
    values["expected_low"], values["expected_high"] = expected or (_NAN, _NAN)
    counts = dict.fromkeys(("true_positives", "false_negatives", "false_positives", "true_negatives"), _NAN)
    if threshold is not None:
        counts |= metrics.confusion_counts(scores, truth, threshold)
    values |= counts | _regions(predictions, items)
    values["accuracy"] = (counts["true_positives"] + counts["true_negatives"]) / len(known)
    values["n_test"], values["n_unread"] = len(predictions), len(unread)
    values["n_masks"] = sum(bool(m.any()) for m in masks if m is not None)
    timings = {"predict": seconds, "metrics": time.perf_counter() - clock}
    records = [replace(r, mask=None) if r and item.mask_error else r for item in items for r in (item.record,)]
    return Evaluation(values, rows, curves, config.to_dict(), timings, predictions, unread, records)


def _binary(
    kind: str, scores: Any, truth: Any, values: dict[str, float], curves: dict[str, Any]
) -> metrics.BinaryCurve | None:
    """Put the numbers and the curves of a kind into `values` and `curves`; the curve, None where it cannot be drawn."""
    curve = metrics.binary_curve(scores, truth) if len(scores) else None
    values[f"{kind}_auroc"] = _NAN if curve is None else curve.auroc
    values[f"{kind}_ap"] = _NAN if curve is None else curve.average_precision
    threshold, f1 = (_NAN, _NAN) if curve is None else curve.best_f1
    values[f"{kind}_f1"], values[f"{kind}_f1_threshold"] = f1, threshold
    if curve is not None:
        curves[f"{kind}_roc"] = dict(zip(("fpr", "tpr"), metrics.thin(curve.fpr, curve.tpr), strict=True))
        recall_precision = metrics.thin(curve.tpr[1:], curve.precision)
        curves[f"{kind}_pr"] = dict(zip(("recall", "precision"), recall_precision, strict=True))
    return curve


def _regions(predictions: Sequence[Prediction], items: Sequence[_Item]) -> dict[str, float]:
    """The pixel threshold, and what its regions find on images whose pixels are known; NaN for what is not there."""
    threshold = next((p.pixel_threshold for p in predictions if p.pixel_threshold is not None), _NAN)
    matched = [(match_regions(p.regions, truth), item.label) for p, item, truth in _truths(predictions, items)
               if p.regions is not None]  # fmt: skip
    if not matched:
        return {"pixel_threshold": threshold} | dict.fromkeys(REGIONS, _NAN)
    total = Matched(*(sum(column) for column in zip(*(m for m, _ in matched), strict=True)))
    on_normal = [m.false for m, label in matched if label == 0]
    return {
        "pixel_threshold": threshold,
        "true_regions": total.true,
        "regions_found": total.found,
        "regions_found_iou": total.found_iou,
        "region_recall": total.found / total.true if total.true else _NAN,
        "region_recall_iou": total.found_iou / total.true if total.true else _NAN,
        "false_regions": total.false,
        "false_regions_per_image": total.false / len(matched),
        "false_regions_per_normal_image": sum(on_normal) / len(on_normal) if on_normal else _NAN,
        "n_region_images": len(matched),
    }


def _truths(
    predictions: Sequence[Prediction], items: Sequence[_Item]
) -> Iterator[tuple[Prediction, _Item, np.ndarray]]:
    """Predictions of images whose pixels are known, with the truth at the size of their regions.

    Of a file that is its own; of tensors that of the map. What a crop left out is not anomalous, as for pixel metrics.
    """
    for p, item in zip(predictions, items, strict=True):
        if item.mask is None:
            continue
        if item.record is None or p.original_size is None:
            yield replace(p, original_size=None, resized_to=None), item, item.mask
            continue
        found = load_truth(item.record, p.size, p.size)
        if found is not None:
            truth, seen = found.numpy(), np.zeros(p.size, dtype=bool)
            seen[seen_box(item.mask.shape, p.size, p.resized_to)] = True
            yield p, item, truth & seen


class _Item(NamedTuple):
    """The truth about one image; mask [H, W] bool is None where its pixels are not known."""

    label: int
    record: ImageRecord | None
    mask: np.ndarray | None
    mask_error: str | None

    @property
    def defect_type(self) -> str:
        return self.record.defect if self.record and self.label == 1 else ""


def _items(batch: Batch) -> Iterator[_Item]:
    masks: list[np.ndarray | None] = [None] * len(batch.labels)
    if batch.masks is not None:
        masks = [m.numpy() if has else None for m, has in zip(batch.masks.cpu(), batch.has_mask, strict=True)]
    for label, record, mask, error in zip(batch.labels, batch.records, masks, batch.mask_errors, strict=True):
        yield _Item(label, record, mask, error)
