"""What the command line takes and says of a threshold."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

from patchcore_fast.errors import DataError

REGIONS = ("hysteresis", "min_area")  # settings that take effect when regions are looked for
TARGETS = ("max_false_alarms", "max_false_pixels")  # settings that choose a threshold of a bank that is there already
_VALUES = {"threshold": ("--image-threshold", "max_false_alarms"), "pixel_threshold": ("--pixel-threshold", TARGETS[1])}


def given_thresholds(args: argparse.Namespace) -> dict[str, float]:
    """Thresholds that were typed, as `decide` takes them; none without.

    DataError: no finite number, or a share is given for the same one.
    """
    found = {}
    for name, (option, share) in _VALUES.items():
        value: float | None = getattr(args, name, None)
        if value is None:
            continue
        if getattr(args, share, None) is not None:
            raise DataError(f"{option} and --{share.replace('_', '-')}: one of both is wanted")
        if not math.isfinite(value):
            raise DataError(f"{option} must be a finite number, got {value}")
        found[name] = value
    return found


def decided_text(bank: Any, why: str) -> str:
    """The thresholds of a bank, and what held-out images say of them.

    why : there may be none.
    """
    if bank.threshold is None:
        lines = [f"No threshold: {why}. Set one with patchcore-fast threshold or calibrate."]
    else:
        lines = [f"Threshold {bank.threshold:.4g}: {expected(bank)}"]
    if bank.pixel_threshold is not None:
        lines.append(f"Pixel threshold {bank.pixel_threshold:.4g}: {expected_pixels(bank)}")
    elif bank.threshold is not None:
        lines.append("No pixel threshold: there are no maps of held-out images. Set one with "
                     "patchcore-fast threshold or calibrate.")  # fmt: skip
    return "\n".join(lines)


def expected(bank: Any) -> str:
    """What the held-out training images say of the bank's threshold."""
    from patchcore_fast.model.threshold import LEVEL, false_alarm_interval, held_out

    scores = held_out(bank)
    if bank.threshold is None or (between := false_alarm_interval(scores, bank.threshold)) is None:
        return f"there are no scores of {_asked(bank)} to tell its false alarms by."
    above = sum(s > bank.threshold for s in scores)
    return (f"{above:,} of {len(scores):,} {_asked(bank)} lie above it, so expect {100 * between[0]:.1f} to "
            f"{100 * between[1]:.1f} % false alarms ({100 * LEVEL:g} % interval).")  # fmt: skip


def expected_pixels(bank: Any) -> str:
    """What the same images say of its pixel threshold."""
    from patchcore_fast.model.pixels import false_pixel_interval, shares_above
    from patchcore_fast.model.threshold import LEVEL

    maps, value = bank.normal_pixels, bank.pixel_threshold
    if maps is None or value is None or (between := false_pixel_interval(maps, value)) is None:
        return f"there are no maps of {_asked(bank)} to tell its false pixels by."
    if not (share := shares_above(maps, value).mean()):
        return f"none of the pixels of {len(maps):,} {_asked(bank)} lie above it."
    return (f"{percent(share)} of the pixels of {len(maps):,} {_asked(bank)} lie above it ({100 * LEVEL:g} % interval "
            f"{percent(between[0])} to {percent(between[1])}).")  # fmt: skip


def percent(share: float) -> str:
    """A share with two digits, "0.11 %"; all are "100 %"."""
    return f"{_short(100 * share)} %"


def _short(number: float) -> str:
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"  # not 1e+02


def _asked(bank: Any) -> str:
    return "images of the calibration" if bank.calibrated else "held-out training images"


def verdicts(metrics: Mapping[str, float], bank: Any) -> str:
    """Found and missed images and false alarms at the threshold in use, and what it might be instead."""
    if bank.threshold is None:
        return "No threshold, so no verdicts: set one with --image-threshold, or patchcore-fast threshold BANK VALUE."
    keys = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    tp, fn, fp, tn = (int(metrics[key]) for key in keys)
    parts = []
    if tp + fn:
        parts.append(f"{tp:,} of {tp + fn:,} anomalous images found, {fn:,} missed")
    if fp + tn:
        parts.append(f"{fp:,} of {fp + tn:,} normal images are false alarms ({rate(fp, fp + tn)})")
    by = "calibration" if bank.calibrated else "training"
    lines = [f"At the threshold in use, {bank.threshold:.4g}: {'; '.join(parts)}.", f"  By {by}: {expected(bank)}"]
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
                 f"({_short(metrics['false_regions_per_image'])} an image"
                 f"{'' if math.isnan(normal) else f', {_short(normal)} a normal image'})")  # fmt: skip
    return f"At the pixel threshold in use, {metrics['pixel_threshold']:.4g}: {'; '.join(parts)}."


def rate(part: int, whole: int) -> str:
    """A share of images with its exact interval."""
    from scipy import stats

    between = stats.binomtest(part, whole).proportion_ci(0.95)
    return f"{100 * part / whole:.1f} %, 95 % interval {100 * between.low:.1f} to {100 * between.high:.1f} %"
