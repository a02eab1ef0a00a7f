"""Settings of the decision: which scores, and which pixels of a map, are called anomalous."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from patchcore_fast.config.base import Settings, setting


def share(text: str) -> float:
    """A share as people write it: "0.005", "1/200" or "0.5%". ValueError: none of these."""
    try:
        return float(Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text))
    except (ValueError, ArithmeticError):
        raise ValueError(f"a share is wanted, as 0.005, 1/200 or 0.5%, got {text!r}") from None


@dataclass(frozen=True)
class DecisionSettings(Settings):
    """Where the thresholds of `fit` lie; see docs/threshold.md.

    Parameters
    ----------
    max_false_alarms : share of new normal images that may exceed that of the image score, in (0, 1).
    max_false_pixels : share of the pixels of new normal images that may exceed that of the map, in (0, 1).
    hysteresis : a region goes on from the pixel threshold down to this part of it, in (0, 1]; 1 for no further. See
        docs/regions.md.
    min_area : pixels of the image that a region has at least.
    """

    group: ClassVar[str] = "decision"
    max_false_alarms: float = setting(
        0.05, "share of normal images that may lie above the threshold", parse=share, metavar="S"
    )
    max_false_pixels: float = setting(
        0.01, "share of the pixels of normal images that may lie above the pixel threshold", parse=share, metavar="S"
    )
    hysteresis: float = setting(
        1.0, "a region goes on from the pixel threshold down to this part of it", parse=float, metavar="F"
    )
    min_area: int = setting(1, "pixels of the image that a region has at least", least=1, most=2**31 - 1, metavar="N")

    def _check(self) -> None:
        for name in ("max_false_alarms", "max_false_pixels"):
            if not 0 < self._real(name) < 1:
                self._wrong(name, f"must be in (0, 1), got {getattr(self, name)}")
        if not 0 < self._real("hysteresis") <= 1:
            self._wrong("hysteresis", f"must be in (0, 1], got {self.hysteresis}")
