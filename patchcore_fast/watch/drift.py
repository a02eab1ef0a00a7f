"""Whether the scores of a line still are those of normal images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LAST = 200  # scores that are compared
LEAST = 30  # of either kind; fewer say nothing
LEVEL = 1e-3  # of the test: it is asked again and again
SAME = 1e-3  # part of the median within which two medians are called equal


@dataclass(frozen=True)
class Drift:
    """The last scores against those of the held-out normal images.

    count, held_out : scores of each.  median, normal_median : theirs.
    statistic, p : of the two-sample Kolmogorov-Smirnov test (`scipy.stats.ks_2samp`).
    has_drifted : p < LEVEL.
    """

    count: int
    held_out: int
    median: float
    normal_median: float
    statistic: float
    p: float

    @property
    def has_drifted(self) -> bool:
        """Whether the difference is no chance."""
        return self.p < LEVEL

    def said(self) -> str:
        """In words."""
        numbers = (f"median {self.median:.4g}, theirs {self.normal_median:.4g}; Kolmogorov-Smirnov statistic "
                   f"{self.statistic:.2f}, p = {self.p:.1g}")  # fmt: skip
        against = f"those of {self.held_out} held-out normal images ({numbers})."
        if not self.has_drifted:
            return f"No drift: the last {self.count} scores are spread as {against}"
        way = "higher than" if self.median > self.normal_median else "lower than"
        if abs(self.median - self.normal_median) < SAME * abs(self.normal_median):
            way = "spread otherwise than"
        return (f"Drift: the last {self.count} scores lie {way} {against} Look at light, camera and material; where "
                "they are as they should be, fit again.")  # fmt: skip


def drift_of(scores: Sequence[float], normal: Sequence[float]) -> Drift | str:
    """Compare the last LAST of `scores` with `normal`, those of the bank's held-out images; or why that cannot be."""
    last = np.asarray(scores[-LAST:], dtype=np.float64)
    if not len(normal):
        return "The bank has no scores of held-out normal images for these settings to compare with."
    if len(normal) < LEAST:
        return f"The bank has {len(normal)} scores of held-out normal images, at least {LEAST} are wanted to see drift."
    if len(last) < LEAST:
        return f"{len(last)} scores so far, at least {LEAST} are wanted to see drift."
    found = stats.ks_2samp(last, np.asarray(normal, dtype=np.float64))
    return Drift(len(last), len(normal), float(np.median(last)), float(np.median(normal)), float(found.statistic),
                 float(found.pvalue))  # fmt: skip
