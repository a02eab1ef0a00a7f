"""How much to prune: the rules that decide it from the data, and the robust scale that signals are put on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..scores import Layout, Support

_LEAST = 10  # images: with fewer, one odd image in ten cannot be told from chance


@dataclass(frozen=True)
class SupportRule:
    """Which unsupported rows go.

    asks : no row goes; a person is to look at the images that others support least.
    share : None, or the share of images that is taken to be outlying, whatever the data say.
    limit, deviation : without a share, a set is contaminated where more than `limit` of its images, and at least two,
        deviate by more than `deviation` robust standard deviations before concentration.
    highs, low : thresholds of what is then pruned, see `Support.unsupported`. The first of `highs` is taken of which
        the images that deviate by at most it, and at most 1, miss no more than `miss` times the share of the images
        above it (`Support.missed`). If there is none, only images go whose distance is more than `gross` times the
        median's. With a share, the threshold is what that share of the images exceeds.

    The numbers were fixed on eight real sets together, clean and with 5 and 10 % defects mixed in; on twelve others the
    decision failed (docs/elfs.md).
    """

    active: bool = True
    asks: bool = False
    share: float | None = None
    limit: float = 0.055
    deviation: float = 3.0
    highs: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    low: float = -1.0
    miss: float = 0.012
    gross: float = 2.0

    @classmethod
    def of(cls, given: Any) -> SupportRule:
        """From "rule" (once "auto" or True), "ask", a share in (0, 1), or False, None or 0: none.

        Raises
        ------
        TypeError, ValueError : anything else.
        """
        if given is False or given is None or (not isinstance(given, (str, bool)) and given == 0):
            return cls(active=False)
        if given is True or given in ("rule", "auto"):
            return cls()
        if given == "ask":
            return cls(asks=True)
        wanted = f'prune_support must be False, "ask", "rule" or a share of images in (0, 1), got {given!r}'
        if not isinstance(given, (int, float)):
            raise TypeError(wanted)
        if not 0 < given < 1:
            raise ValueError(wanted)
        return cls(share=float(given))

    @property
    def said(self) -> str | float | bool:
        """What `of` was given: "rule", "ask", a share or False."""
        if not self.active:
            return False
        return "ask" if self.asks else "rule" if self.share is None else self.share

    def refusal(self, layout: Layout | None) -> str:
        """Why nothing can be said about this layout; empty if it can."""
        if layout is None:
            return "the images of the rows are not known: pass image_ids or positions"
        if layout.images < _LEAST:
            return f"{layout.images} images are too few, at least {_LEAST} are wanted"
        return ""

    def judge(self, found: Support) -> tuple[Tensor, dict[str, Any]]:
        """Rows to prune [N] bool, and what was found, for a report."""
        outlying = found.outlying(self.deviation)
        images = found.layout.images
        contaminated = outlying > self.limit and round(outlying * images) >= 2
        facts: dict[str, Any] = {"outlying_share": outlying, "limit": self.limit, "contaminated": contaminated}
        nothing = torch.zeros(found.distance.shape[0], dtype=torch.bool)
        if self.share is not None:
            rank = max(1, min(images - 1, round(self.share * images)))
            return self._pruned(found, float(found.deviation.sort(descending=True).values[rank]), facts)
        if not contaminated:
            return nothing, {**facts, "images_pruned": 0}
        facts["missed"] = {}
        for high in self.highs:
            rows, told = self._pruned(found, high, facts)
            facts["missed"][f"{high:g}"] = missed = found.missed(rows, min(high, 1.0))
            if missed <= self.miss * told["images_pruned"] / images:
                return rows, told
        gross = found.image_distance > self.gross * found.image_distance.median()
        if not bool(gross.any()):
            return nothing, {**facts, "images_pruned": 0}
        return self._pruned(found, max(self.highs[-1], float(found.deviation[~gross].max())), facts)

    def _pruned(self, found: Support, high: float, facts: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        low = min(self.low, high)
        images = int((found.deviation > high).sum())
        return found.unsupported(high, low), {**facts, "images_pruned": images, "high": high, "low": low}


def checked_share(name: str, value: float | None) -> float:
    """A share to prune, in [0, 0.5); None and False are 0.

    Raises
    ------
    TypeError : no number.  ValueError : out of range.
    """
    if value is None or value is False:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number in [0, 0.5) or None, got {value!r}")
    if not 0 <= value < 0.5:
        raise ValueError(f"{name} must be in [0, 0.5), got {value!r}")
    return float(value)


def by_share(score: Tensor, share: float) -> Tensor:
    """[N] bool: the round(share * N) rows of largest score, the lower row first among equals."""
    count = round(share * score.shape[0])
    out = torch.zeros(score.shape[0], dtype=torch.bool)
    out[score.argsort(descending=True, stable=True)[:count]] = True
    return out


def robust(score: Tensor | None) -> Tensor:
    """(s - median) / (1.349^-1 interquartile range), within +-3, [N] float64; 0 everywhere where the range is 0."""
    assert score is not None
    ordered = score.double().sort().values
    n = ordered.shape[0]
    low, middle, high = (float(ordered[min(n - 1, int(q * n))]) for q in (0.25, 0.5, 0.75))
    spread = (high - low) / 1.349
    if spread <= 0:
        return torch.zeros(n, dtype=torch.float64)
    return ((score.double() - middle) / spread).clamp(-3, 3)
