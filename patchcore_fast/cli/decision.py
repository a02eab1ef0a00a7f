"""What the command line takes and says of a threshold."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

from patchcore_fast.errors import DataError


def given_threshold(args: argparse.Namespace) -> float | None:
    """The value of --threshold, None without; DataError: no finite number, or --max-false-alarms is given too."""
    value: float | None = getattr(args, "threshold", None)
    if value is not None and hasattr(args, "max_false_alarms"):
        raise DataError("--threshold and --max-false-alarms: one of both is wanted")
    if value is not None and not math.isfinite(value):
        raise DataError(f"--threshold must be a finite number, got {value}")
    return value


def expected(bank: Any) -> str:
    """What the held-out training images say of the bank's threshold."""
    from patchcore_fast.model.threshold import LEVEL, false_alarm_interval, held_out

    scores = held_out(bank)
    if bank.threshold is None or (between := false_alarm_interval(scores, bank.threshold)) is None:
        return "there are no scores of held-out training images to tell its false alarms by."
    above = sum(s > bank.threshold for s in scores)
    return (f"{above:,} of {len(scores):,} held-out training images lie above it, so expect {100 * between[0]:.1f} to "
            f"{100 * between[1]:.1f} % false alarms ({100 * LEVEL:g} % interval).")  # fmt: skip


def verdicts(metrics: Mapping[str, float], bank: Any) -> str:
    """Found and missed images and false alarms at the threshold in use, and what it might be instead."""
    if bank.threshold is None:
        return "No threshold, so no verdicts: set one with --threshold, or patchcore-fast threshold BANK VALUE."
    keys = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    tp, fn, fp, tn = (int(metrics[key]) for key in keys)
    parts = []
    if tp + fn:
        parts.append(f"{tp:,} of {tp + fn:,} anomalous images found, {fn:,} missed")
    if fp + tn:
        parts.append(f"{fp:,} of {fp + tn:,} normal images are false alarms ({_share(fp, tn)})")
    lines = [f"At the threshold in use, {bank.threshold:.4g}: {'; '.join(parts)}.", f"  By training: {expected(bank)}"]
    f1 = 2 * tp / (2 * tp + fn + fp) if tp else 0.0
    best, best_f1 = metrics["image_f1_threshold"], metrics["image_f1"]
    if best_f1 > f1 + 0.005:
        lines.append(f"  F1 there is {f1:.3f}; the best F1, {best_f1:.3f}, has the threshold {best:.6g}, chosen with "
                     "the labels of these test images.")  # fmt: skip
    return "\n".join(lines)


def regions_said(metrics: Mapping[str, float]) -> str:
    """What the regions above the pixel threshold find; a line, or "" where nothing is known of them."""
    from patchcore_fast.regions import IOU

    images = metrics.get("n_region_images", math.nan)
    if math.isnan(images):
        return ""
    true, found, near, false = (
        int(metrics[key]) for key in ("true_regions", "regions_found", "regions_found_iou", "false_regions")
    )
    parts = [f"{found:,} of {true:,} true regions found ({near:,} with an IoU of {IOU:g} or more)"] if true else []
    normal = metrics["false_regions_per_normal_image"]
    parts.append(f"{false:,} false {'region' if false == 1 else 'regions'} on {images:,.0f} images "
                 f"({metrics['false_regions_per_image']:.2g} an image"
                 f"{'' if math.isnan(normal) else f', {normal:.2g} a normal image'})")  # fmt: skip
    return f"At the pixel threshold in use, {metrics['pixel_threshold']:.4g}: {'; '.join(parts)}."


def _share(part: int, rest: int) -> str:
    from scipy import stats

    between = stats.binomtest(part, part + rest).proportion_ci(0.95)
    return f"{100 * part / (part + rest):.1f} %, 95 % interval {100 * between.low:.1f} to {100 * between.high:.1f} %"
