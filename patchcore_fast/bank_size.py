"""What a budget came to, as a bank keeps it: rows, bytes, search time, and what fewer rows would have given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, NoReturn

from patchcore_fast.config.budget import parse_budget

STEPS, LAYERS, TEXT = 16, 100, 200  # at most, in a file: of a curve, radii of one step, characters


@dataclass(frozen=True)
class Step:
    """A point of the curve: the first rows of the bank, as if they were all of it.

    rows : of all layers together.  radius : within which all training rows lie of them, where the selection measured,
    one a layer; empty for samplers that do not say.  score : median score of the held-out images; None without any.
    """

    rows: int
    radius: tuple[float, ...] = ()
    score: float | None = None


@dataclass(frozen=True)
class BankSize:
    """Of a bank that was made by a budget.

    Attributes
    ----------
    budget : as it was given.  rows, bytes : of all layers together; bytes with the column of the price.
    device : on which a budget in time was measured, "" for others.
    fixed_ms, row_ms : the search for one image took fixed_ms + row_ms * rows there, in milliseconds; 0 for others.
    curve : from few rows to all.

    Raises
    ------
    TypeError, ValueError : numbers or texts that no fit gives.
    """

    budget: str
    rows: int
    bytes: int
    device: str = ""
    fixed_ms: float = 0.0
    row_ms: float = 0.0
    curve: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        """A file may hold anything."""
        for name in ("budget", "device"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > TEXT:
                _wrong(name, f"must be a text of at most {TEXT} characters", value)
        parse_budget(self.budget)
        for name in ("rows", "bytes"):
            _whole(name, getattr(self, name))
        for name in ("fixed_ms", "row_ms"):
            _number(name, getattr(self, name))
        if len(self.curve) > STEPS:
            _wrong("curve", f"must have at most {STEPS} steps", len(self.curve))
        for step in self.curve:
            _whole("curve.rows", step.rows)
            if len(step.radius) > LAYERS:
                _wrong("curve.radius", f"must be at most {LAYERS}", len(step.radius))
            for value in (*step.radius, *(() if step.score is None else (step.score,))):
                _number("curve", value)

    @property
    def search_ms(self) -> float | None:
        """Of the search for one image, by that measurement; None without one."""
        return self.fixed_ms + self.row_ms * self.rows if self.device else None

    @property
    def bytes_said(self) -> str:
        """For people."""
        return f"{self.bytes / 1e3:,.1f} KB" if self.bytes < 1e6 else f"{self.bytes / 1e6:,.1f} MB"

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self) | {"curve": [asdict(s) | {"radius": list(s.radius)} for s in self.curve]}

    @classmethod
    def from_dict(cls, values: Any) -> BankSize:
        """Inverse of `to_dict`. TypeError, ValueError: it is none; keys of later versions are passed over."""
        try:
            known = {name: values[name] for name in ("budget", "rows", "bytes", "device", "fixed_ms", "row_ms")}
            curve = tuple(Step(s["rows"], tuple(s["radius"]), s["score"]) for s in values["curve"])
        except (LookupError, TypeError) as error:
            raise ValueError(f"size: {error!r} in what was written of the budget") from None
        return cls(**known, curve=curve)


def size_of(values: Mapping[str, Any]) -> BankSize | None:
    """What the facts of a bank file say of it; None for banks without a budget."""
    found = values.get("size")
    return None if found is None else BankSize.from_dict(found)


def _whole(name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value < 1 << 63:
        _wrong(name, "must be a positive number of 63 bits", value)


def _number(name: str, value: object) -> None:
    if type(value) not in (int, float) or not 0 <= value <= 1e300 or not isfinite(value):  # type: ignore[operator, arg-type]
        _wrong(name, "must be finite and not negative", value)


def _wrong(name: str, wanted: str, value: object) -> NoReturn:
    raise ValueError(f"size: {name} {wanted}, got {str(value)[:100]}")
