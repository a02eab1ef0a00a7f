"""A decision threshold from normal images alone (docs/threshold.md has the measurements behind it)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

PART = 10  # at most one image in so many is held out at a time, so that the others still make nearly the same bank
ASKED = 200  # images held out in all; more would cost time and hardly move the threshold
SPREAD, WEIGHT = 0.06, 4  # standard deviation of log scores to expect beforehand, and the images that this counts as
CLIP = 4.0  # robust standard deviations from the median beyond which a score counts as if it lay there
LEVEL = 0.95  # of the interval of the false-alarm rate

Floats = NDArray[np.float64]


class Decided(Protocol):
    """What has thresholds: a bank, or what another method learned, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

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
    def calibrated(self) -> int:
        """How many images of a calibration stand in the place of held-out ones, 0 for none."""

    @property
    def config(self) -> dict[str, Any]:
        """Settings by group."""


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
    logs, scale, freedom = predicted(logs, SPREAD * (2 if squared else 1))
    return float(np.exp(logs.mean() + stats.t.ppf(1 - share, freedom) * scale))


def predicted(logs: Floats, expected: float) -> tuple[Floats, float, int]:
    """What the next of normally distributed logs [n], n >= 2, is expected to be, as `false_alarm_threshold` says.

    expected : standard deviation to expect beforehand.

    Returns
    -------
    The logs, none too far from their median; and scale and degrees of freedom of the Student distribution about their
    mean.
    """
    n = len(logs)
    middle, robust = np.median(logs), float(stats.median_abs_deviation(logs, scale="normal"))
    reach = CLIP * max(robust, expected)
    logs = np.clip(logs, middle - reach, middle + reach)
    freedom = WEIGHT + n - 1
    variance = (WEIGHT * expected**2 + (n - 1) * logs.var(ddof=1)) / freedom
    return logs, float(np.sqrt(variance * (1 + 1 / n))), freedom


def false_alarm_interval(scores: Sequence[float], threshold: float) -> tuple[float, float] | None:
    """What held-out scores [n] say of the false-alarm rate of a threshold: the exact interval of Clopper and Pearson.

    LEVEL of it, from the number of scores above the threshold; None without scores.
    """
    if not len(scores):
        return None
    above = int((np.asarray(scores) > threshold).sum())
    found = stats.binomtest(above, len(scores)).proportion_ci(LEVEL)
    return float(found.low), float(found.high)


def held_out(bank: Decided) -> list[float]:
    """The held-out scores of a bank, none where it has none."""
    return [] if bank.normal_scores is None else [float(s) for s in bank.normal_scores]
