"""The pixel threshold from normal images alone (docs/threshold.md has the measurements behind it)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize, special, stats

from patchcore_fast.bank_file import QUANTILES
from patchcore_fast.config import ScoringSettings
from patchcore_fast.model.collect import Sizes
from patchcore_fast.model.threshold import LEVEL, Floats, predicted
from patchcore_fast.scoring import anomaly_map

# Shares of a map's pixels that reach its kept values, ascending by value: from all of them to one of 65,536.
SHARES = 2.0 ** (-np.arange(QUANTILES) / 2)
PIXELS = 1 << 20  # of a map that are looked at; of larger ones evenly spaced rows and columns
RESAMPLES = 1000  # of the bootstrap
SPREAD = 0.04  # standard deviation of log levels to expect beforehand; see `threshold.SPREAD`
# Probabilities at which a Student distribution is taken, dense at both ends, and their weights.
_AT = special.expit(np.linspace(-14.0, 14.0, 281))
_WEIGHTS = np.diff(special.expit(np.linspace(-14.05, 14.05, 282)))
_WEIGHTS /= _WEIGHTS.sum()  # of what lies beyond the ends too: below all values there are all pixels
_LEAST = 1e-30  # stands for values of zero, which have no logarithm


class HeldOut(NamedTuple):
    """What images say that were scored as if they were new.

    scores : of each image.  pixels : [Q] float32 of each map (`quantiles_of`); none where maps could not be made.
    """

    scores: list[float]
    pixels: list[torch.Tensor]

    def add(self, score: float, pixels: torch.Tensor | None) -> None:
        """One image more."""
        self.scores.append(score)
        if pixels is not None:
            self.pixels.append(pixels)

    def extend(self, more: HeldOut) -> None:
        """Further images."""
        self.scores.extend(more.scores)
        self.pixels.extend(more.pixels)

    def maps(self) -> torch.Tensor | None:
        """[n, Q] of all images; None without images, or where one has none."""
        return torch.stack(self.pixels) if 0 < len(self.scores) == len(self.pixels) else None


def quantiles_of(maps: torch.Tensor) -> torch.Tensor:
    """What is kept of maps [B, H, W]: [B, Q] float32, ascending, the values that SHARES of their pixels reach."""
    step = int(np.ceil(np.sqrt(maps[0].numel() / PIXELS)))
    flat = maps[:, ::step, ::step].flatten(1).float().cpu().numpy()
    ranks = flat.shape[1] - np.ceil(SHARES * flat.shape[1]).astype(np.int64)
    return torch.from_numpy(np.partition(flat, np.unique(ranks), axis=1)[:, ranks])


def laid_quantiles(
    patches: torch.Tensor, grid: tuple[int, int], sizes: Sizes, scoring: ScoringSettings
) -> torch.Tensor | None:
    """`quantiles_of` [Q] the map that is predicted of patch scores [P]; None where the image's size is not known."""
    if grid not in sizes:
        return None
    covered, (height, width) = sizes[grid]
    laid = anomaly_map(patches.view(1, *grid), covered, scoring.sigma, scoring.upsample, scoring.border)
    return quantiles_of(laid[:, :height, :width])[0]


def shares_above(maps: torch.Tensor, value: float) -> Floats:
    """Shares [n] of the pixels of each map that lie above a value, by their quantiles [n, Q]."""
    at = np.array([np.log(max(value, _LEAST))])
    return np.array([_above(one, at)[0] for one in _logs(maps)])


def pixel_threshold(maps: torch.Tensor, share: float, squared: bool = False) -> float | None:
    """The value that a share of the pixels of new normal images exceeds in the mean, from quantiles [n, Q] of held-out
    maps; None for fewer than two.

    The curves "share of pixels above a value" of the n maps, on log values, are averaged; each is blurred, for a new
    map is none of those. The level of a map is the log of the value that `share` of its pixels exceed. A new map's
    level has the Student distribution of `threshold.predicted`, wider than the n levels are: the blur is a Student
    distribution that adds what is missing of that variance. With many images it vanishes, and the threshold is the
    quantile of all pixels.

    Parameters
    ----------
    share : of pixels to be called anomalous, in (0, 1).
    squared : scores are squares of distances, whose logarithms spread twice as far.
    """
    if len(maps) < 2:
        return None
    curves = _logs(maps)
    levels = np.array([np.interp(-np.log(share), -np.log(SHARES), one) for one in curves])
    levels, scale, freedom = predicted(levels, SPREAD * (2 if squared else 1))
    missing = scale**2 * freedom / (freedom - 2) - levels.var()
    moved = stats.t.ppf(_AT, freedom) * np.sqrt(max(missing, 0.0) * (freedom - 2) / freedom)

    def excess(log: float) -> float:
        return float(np.mean([_WEIGHTS @ _above(one, log - moved) for one in curves])) - share

    low, high = float(curves.min() + moved[0]) - 1, float(curves.max() + moved[-1]) + 1
    return float(np.exp(optimize.brentq(excess, low, high, xtol=1e-6)))


def false_pixel_interval(maps: torch.Tensor, value: float) -> tuple[float, float] | None:
    """What held-out maps, quantiles [n, Q], say of the share of pixels above a value: LEVEL of the bootstrap over
    images (percentiles, seeded); None for fewer than two."""
    if len(maps) < 2:
        return None
    shares = shares_above(maps, value)
    seeded = {"random_state": np.random.default_rng(0)}
    found = stats.bootstrap((shares,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile",
                            vectorized=True, **seeded).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def _logs(maps: torch.Tensor) -> Floats:
    return np.log(np.maximum(maps.double().cpu().numpy(), _LEAST))


def _above(curve: Floats, logs: Floats) -> Floats:
    """Shares of a map's pixels above values, by the logs [Q] of its quantiles."""
    found = np.exp(np.interp(logs, curve, np.log(SHARES)))
    return np.where(logs >= curve[-1], 0.0, np.where(logs < curve[0], 1.0, found))
