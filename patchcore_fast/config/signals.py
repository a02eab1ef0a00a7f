"""The signals of training patches that `inspect --signals` computes; no torch here, so that names are checked first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .base import nearest


@dataclass(frozen=True)
class Signal:
    """label : for people.  unit : of its numbers.  large : what a large value says of a patch."""

    label: str
    unit: str
    large: str


_DISTANCE = "distance, in feature units"
SIGNALS = {
    "representativeness": Signal("representativeness, clusters", "minus the distance to the nearest of 64 centres, "
                                 "in spreads", "typical of its cluster"),
    "representativeness-mean": Signal("representativeness, mean", "minus the distance to the mean, in spreads",
                                      "typical of the whole set"),
    "rarity": Signal("rarity", _DISTANCE, "far from 1,024 random patches"),
    "density": Signal("density, 1 / rarity", "1 / distance", "close to 1,024 random patches"),
    "support": Signal("support distance", _DISTANCE, "no other image shows it"),
    "aum": Signal("AUM, area under the margin", "probability, -1 to 1", "easy to tell apart"),
    "forgetting": Signal("forgetting", "events in 4 epochs", "learnt and lost again"),
    "el2n": Signal("EL2N, early error", "norm of the error, 0 to 1.41", "hard to tell apart"),
    "proxy": Signal("instability by a proxy", "change of its probabilities a step, 0 to 1.41", "the proxy wavers"),
    "noise": Signal("instability by noise", _DISTANCE, "nothing: it measures its own noise"),
    "views": Signal("instability by views", _DISTANCE, "moves when the photograph is mirrored, darker or flatter"),
}  # fmt: skip


def chosen_signals(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of signals in the table's order, of "all", a text with commas, or a sequence. ValueError: not those."""
    listed = [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names)
    if listed == ["all"]:
        return tuple(SIGNALS)
    if strange := [name for name in listed if name not in SIGNALS]:
        raise ValueError(
            f"signals must be all, or some of {', '.join(SIGNALS)}; got {', '.join(strange) or 'none'!r}"
            f"{nearest(strange[0], SIGNALS)}"
        )
    if not listed:
        raise ValueError(f"signals must be all, or some of {', '.join(SIGNALS)}; got none")
    return tuple(name for name in SIGNALS if name in listed)
