"""Both thresholds of a bank, or of what another method learned: from held-out images, or as somebody wants them."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from numbers import Real
from typing import Any, TypeVar

import torch

from patchcore_fast.config import DecisionSettings, recorded
from patchcore_fast.model.pixels import HeldOut, pixel_threshold
from patchcore_fast.model.threshold import Decided, false_alarm_threshold, held_out

_D = TypeVar("_D", bound=Decided)


def thresholds(held: HeldOut, decision: DecisionSettings, squared: bool) -> dict[str, Any]:
    """The fields of a bank that say where thresholds lie and what they came of."""
    scores, maps = held.scores, held.maps()
    return {
        "threshold": false_alarm_threshold(scores, decision.max_false_alarms, squared),
        "normal_scores": torch.tensor(scores, dtype=torch.float64) if scores else None,
        "pixel_threshold": None if maps is None else pixel_threshold(maps, decision.max_false_pixels, squared),
        "normal_pixels": maps,
        "calibrated": 0,
    }


def undecided(bank: _D) -> _D:
    """The bank without thresholds and what they came of."""
    return replace(bank, threshold=None, normal_scores=None, pixel_threshold=None, normal_pixels=None, calibrated=0)


def held_out_of(bank: Decided) -> HeldOut:
    """What the held-out images of a bank said; nothing where it has none, or was calibrated by others since."""
    if bank.calibrated:
        return HeldOut([], [])
    return HeldOut(held_out(bank), [] if bank.normal_pixels is None else list(bank.normal_pixels))


def with_thresholds(
    bank: _D,
    *,
    threshold: float | None = None,
    max_false_alarms: float | None = None,
    pixel_threshold: float | None = None,
    max_false_pixels: float | None = None,
) -> _D:
    """The bank with other thresholds: these, or those of a share of false alarms by what held-out images said.

    What is not given stays.

    Parameters
    ----------
    threshold, max_false_alarms : one of both; image score, or share of normal images above it.
    pixel_threshold, max_false_pixels : one of both; value of a map, or share of the pixels of normal images above it.

    Raises
    ------
    TypeError, ValueError : none of all or both of a pair, no number, a share outside of (0, 1), or a bank that does not
        know what held-out images said.
    """
    given = {"threshold": threshold, "max_false_alarms": max_false_alarms,
             "pixel_threshold": pixel_threshold, "max_false_pixels": max_false_pixels}  # fmt: skip
    if all(value is None for value in given.values()):
        raise TypeError(f"with_thresholds: one of {', '.join(given)} is wanted")
    for value, share in (("threshold", "max_false_alarms"), ("pixel_threshold", "max_false_pixels")):
        if given[value] is not None and given[share] is not None:
            raise TypeError(f"with_thresholds: either {value} or {share} is wanted, and not both")
        if given[value] is not None:
            bank = replace(bank, **{value: _number(value, given[value])})
        elif given[share] is not None:
            bank = _by_share(bank, value, share, given[share])
    return bank


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"with_thresholds: {name} must be a finite number, got {value!r}")
    return float(value)


def _by_share(bank: _D, name: str, share: str, value: Any) -> _D:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ValueError(f"with_thresholds: {share} must lie in (0, 1), got {value!r}")
    squared = recorded(bank.config, "distance") == "squared" or recorded(bank.config, "metric") == "cosine"
    if name == "threshold":
        found = false_alarm_threshold(held_out(bank), float(value), squared)
    else:
        found = None if bank.normal_pixels is None else pixel_threshold(bank.normal_pixels, float(value), squared)
    if found is None:
        what = "scores" if name == "threshold" else "maps"
        raise ValueError(
            f"with_thresholds: the bank has no {what} of held-out images (an older file, a single training image, or "
            f"another scoring than the fit's): give a {name} instead, or calibrate it"
        )
    return replace(bank, config=bank.config | {share: float(value)}, **{name: found})
