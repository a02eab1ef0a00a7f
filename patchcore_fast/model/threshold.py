"""A decision threshold from normal images alone (docs/threshold.md has the measurements behind it)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from numbers import Real
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from scipy import stats

from patchcore_fast.config import recorded

PART = 10  # at most one image in so many is held out at a time, so that the others still make nearly the same bank
ASKED = 200  # images held out in all; more would cost time and hardly move the threshold
SPREAD, WEIGHT = 0.08, 4  # standard deviation of log scores to expect beforehand, and the images that this counts as
CLIP = 4.0  # robust standard deviations from the median beyond which a score counts as if it lay there
LEVEL = 0.95  # of the interval of the false-alarm rate


class Decided(Protocol):
    """What has a threshold: a bank, or what another method learned."""

    @property
    def threshold(self) -> float | None:
        """Image score above which an image is anomalous."""

    @property
    def pixel_threshold(self) -> float | None:
        """Value of a map above which a pixel is anomalous."""

    @property
    def normal_scores(self) -> torch.Tensor | None:
        """[n] float64 of held-out images."""

    @property
    def normal_pixels(self) -> torch.Tensor | None:
        """[n, Q] float32, quantiles of maps of held-out images."""

    @property
    def config(self) -> dict[str, Any]:
        """Settings by group."""


_D = TypeVar("_D", bound=Decided)


def held_out_folds(images: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """The images to hold out together, fold by fold: each of `images` [J] once, or ASKED of them, evenly spread.

    count : training images in all; a fold has at most count / PART of them, one where there are fewer than PART.
    """
    chosen = images[torch.linspace(0, len(images) - 1, min(ASKED, len(images))).round().long()]
    number = -(-len(chosen) // max(count // PART, 1))
    for k in range(number):
        yield chosen[k::number]


def false_alarm_threshold(scores: Sequence[float], share: float, squared: bool = False) -> float | None:
    """The score that a share of new normal images exceeds, from held-out scores [n]; None for fewer than two.

    Log scores are taken as normal, and the threshold is the upper limit of their one-sided prediction interval,
    exp(m + t s sqrt(1 + 1/n)) with m the mean and t Student's quantile, so that few images give a wider margin. Scores
    beyond CLIP robust standard deviations count as if they lay there, and the variance s^2 is averaged with SPREAD^2 as
    if that came from WEIGHT more images (a conjugate prior; Gelman et al., Bayesian Data Analysis, 3rd ed., 2.6).

    Parameters
    ----------
    scores : finite.  share : of normal images to be called anomalous, in (0, 1).
    squared : scores are squares of distances, whose logarithms spread twice as far.
    """
    if len(scores) < 2:
        return None
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(np.asarray(scores, dtype=np.float64), 0.0))
    middle = np.median(logs)
    if not np.isfinite(middle):  # most images are copies of others
        return float(max(scores))
    n, expected = len(logs), SPREAD * (2 if squared else 1)
    robust = float(stats.median_abs_deviation(logs, scale="normal"))
    reach = CLIP * max(robust, expected)
    logs = np.clip(logs, middle - reach, middle + reach)
    freedom = WEIGHT + n - 1
    variance = (WEIGHT * expected**2 + (n - 1) * logs.var(ddof=1)) / freedom
    margin = stats.t.ppf(1 - share, freedom) * np.sqrt(variance * (1 + 1 / n))
    return float(np.exp(logs.mean() + margin))


def false_alarm_interval(scores: Sequence[float], threshold: float) -> tuple[float, float] | None:
    """What held-out scores [n] say of the false-alarm rate of a threshold: the exact interval of Clopper and Pearson.

    LEVEL of it, from the number of scores above the threshold; None without scores.
    """
    if not len(scores):
        return None
    above = int((np.asarray(scores) > threshold).sum())
    found = stats.binomtest(above, len(scores)).proportion_ci(LEVEL)
    return float(found.low), float(found.high)


def with_threshold(bank: _D, *, threshold: float | None = None, max_false_alarms: float | None = None) -> _D:
    """The bank with another threshold: this one, or the one of a share of false alarms by its held-out scores.

    Raises
    ------
    TypeError, ValueError : not one of both, no number, a share outside of (0, 1), or a bank without held-out scores.
    """
    if (threshold is None) == (max_false_alarms is None):
        raise TypeError("with_threshold: either threshold or max_false_alarms is wanted, and not both")
    if threshold is not None:
        if isinstance(threshold, bool) or not isinstance(threshold, Real) or not isfinite(threshold):
            raise ValueError(f"with_threshold: threshold must be a finite number, got {threshold!r}")
        return replace(bank, threshold=float(threshold))
    if isinstance(max_false_alarms, bool) or not isinstance(max_false_alarms, Real) or not 0 < max_false_alarms < 1:
        raise ValueError(f"with_threshold: max_false_alarms must lie in (0, 1), got {max_false_alarms!r}")
    squared = recorded(bank.config, "distance") == "squared" or recorded(bank.config, "metric") == "cosine"
    found = false_alarm_threshold(held_out(bank), float(max_false_alarms), squared)
    if found is None:
        raise ValueError(
            "with_threshold: the bank has no scores of held-out images (an older file, a single training image, or "
            "another scoring than the fit's): give a threshold instead"
        )
    config = bank.config | {"max_false_alarms": float(max_false_alarms)}
    return replace(bank, threshold=found, config=config)


def undecided(bank: _D) -> _D:
    """The bank without thresholds and what they came of."""
    return replace(bank, threshold=None, normal_scores=None, pixel_threshold=None, normal_pixels=None)


def held_out(bank: Decided) -> list[float]:
    """The held-out scores of a bank, none where it has none."""
    return [] if bank.normal_scores is None else [float(s) for s in bank.normal_scores]
