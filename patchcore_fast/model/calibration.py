"""Thresholds from images that no model was fitted on: good ones, and with them some defects (docs/threshold.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from scipy import stats

from patchcore_fast.config import DecisionSettings
from patchcore_fast.model.decision import thresholds
from patchcore_fast.model.pixels import RESAMPLES, HeldOut, quantiles_of
from patchcore_fast.model.results import Prediction
from patchcore_fast.model.threshold import LEVEL, Decided, Floats

KEPT = 1000  # good images whose scores and maps are kept; of more evenly spread ones

_D = TypeVar("_D", bound=Decided)


class Balanced(NamedTuple):
    """A threshold between good and defective images.

    interval : LEVEL of the bootstrap over the images of either kind.
    """

    threshold: float
    interval: tuple[float, float]


class Calibration(NamedTuple):
    """What images said in a calibration.

    good : scores of the good images.  defects : file and score of each defective one.
    balanced : how the image threshold was chosen, None where it was by the good images alone.
    unread : (file, why) of images that could not be read.
    """

    good: list[float]
    defects: list[tuple[Path | None, float]]
    balanced: Balanced | None
    unread: list[tuple[Path, str]]


def calibrated(
    facts: _D,
    good: Iterable[Prediction],
    defects: Iterable[Prediction],
    decision: DecisionSettings,
    squared: bool,
    balance: bool,
) -> tuple[_D, Calibration]:
    """What holds a model's thresholds with those by other images in place of held-out ones, and what these said.

    The rules are those of `fit` (`decision.thresholds`); the image threshold is that of `balanced_threshold` with
    `balance`. Predictions with an error are left out.

    Raises
    ------
    ValueError : fewer than two good images, or what `balanced_threshold` raises.
    """
    unread: list[tuple[Path, str]] = []
    held = HeldOut([], [])
    for one in _readable(good, unread):
        held.add(one.score, quantiles_of(torch.from_numpy(one.anomaly_map)[None])[0])
    if len(held.scores) < 2:
        raise ValueError(f"calibrate: two good images or more are wanted, got {len(held.scores)}{_last(unread)}")
    found = [(one.path, one.score) for one in _readable(defects, unread)]
    if balance and not found:
        raise ValueError(f"calibrate: there are no defects to choose a threshold by{_last(unread)}")
    balanced = balanced_threshold(held.scores, [score for _, score in found]) if balance else None
    chosen = np.linspace(0, len(held.scores) - 1, min(KEPT, len(held.scores))).round().astype(int).tolist()
    kept = HeldOut([held.scores[i] for i in chosen], [held.pixels[i] for i in chosen])
    made = thresholds(kept, decision, squared) | {"calibrated": len(kept.scores)}
    if balanced is not None:
        made["threshold"] = balanced.threshold
    shares = {"max_false_alarms": decision.max_false_alarms, "max_false_pixels": decision.max_false_pixels}
    return replace(facts, config=facts.config | shares, **made), Calibration(held.scores, found, balanced, unread)


def _readable(stream: Iterable[Prediction], unread: list[tuple[Path, str]]) -> Iterator[Prediction]:
    for one in stream:
        if one.error is None:
            yield one
        else:
            unread.append((one.path or Path(), one.error))


def _last(unread: Sequence[tuple[Path, str]]) -> str:
    """Behind an error of too few images: why the last of those that could not be read could not."""
    return f"; {unread[-1][1]}" if unread else ""


def balanced_threshold(good: Sequence[float], defects: Sequence[float]) -> Balanced:
    """Where the share of defects above and the share of good images not above are together largest (Youden 1950).

    The threshold lies midway between the scores on its two sides; of several best places it is the widest.

    Raises
    ------
    ValueError : no images of a kind, or defects that score no higher than good images.
    """
    for name, scores in (("good images", good), ("defects", defects)):
        if not len(scores):
            raise ValueError(f"calibrate: there are no {name} to choose a threshold by")
    ok, bad = np.asarray(good, dtype=np.float64), np.asarray(defects, dtype=np.float64)
    chosen, gained = _youden(ok, bad)
    if gained <= 0:
        raise ValueError("calibrate: the defects score no higher than the good images, no threshold parts them")
    both = (ok, bad) if len(bad) > 1 else (ok,)  # SciPy draws from two or more; a single defect is in every draw
    found = stats.bootstrap(
        both, lambda a, b=bad: _youden(a, b)[0], vectorized=False, paired=False, n_resamples=RESAMPLES,
        confidence_level=LEVEL, method="percentile", random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Balanced(chosen, (float(found.low), float(found.high)))


def _youden(good: Floats, defects: Floats) -> tuple[float, float]:
    """The threshold, and what the two shares are together above 1; without a gain a threshold above all."""
    values = np.unique(np.concatenate([good, defects]))
    if len(values) == 1:
        return float(values[0]), 0.0
    middles, wide = (values[1:] + values[:-1]) / 2, np.diff(values)
    above_bad = 1 - np.searchsorted(np.sort(defects), middles, side="right") / len(defects)
    above_good = 1 - np.searchsorted(np.sort(good), middles, side="right") / len(good)
    gains = above_bad - above_good
    best = np.flatnonzero(gains == gains.max())
    at = best[wide[best].argmax()]
    return float(middles[at]), float(gains[at])
