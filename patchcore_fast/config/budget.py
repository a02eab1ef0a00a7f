"""How large a bank may be, as users write it: rows, bytes, or the time of a search."""

from __future__ import annotations

import re
from typing import NamedTuple

BYTES = (
    {"b": 1}
    | {f"{p}b": 1000**n for n, p in enumerate("kmgt", 1)}
    | {f"{p}ib": 1024**n for n, p in enumerate("kmgt", 1)}
)
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
MOST = 2**63 - 1  # rows or bytes
_NUMBER = re.compile(r"\s*(\d{1,19}(?:\.\d{1,19})?)\s*([A-Za-z]{0,3})\s*", re.ASCII)


class Budget(NamedTuple):
    """kind : "rows", "bytes" or "seconds".  amount : of these, positive; whole rows and bytes."""

    kind: str
    amount: float


def percentage_of(rows: int, total: int) -> float:
    """What a sampler is told so that int(total * percentage) is `rows`; of fewer rows it then picks the same share."""
    return 1.0 if rows >= total else (rows + 0.5) / total


def parse_budget(text: str) -> Budget:
    """`2000`, `20MB`, `512KiB`, `1.5GB`, `5ms`, `0.2s`; units in large or small letters.

    Raises
    ------
    ValueError : anything else, or less than one row, one byte or no time.
    """
    found = _NUMBER.fullmatch(text)
    number, unit = found.groups() if found else ("0", "?")
    unit = unit.lower()
    if unit == "" and "." not in number:
        kind, amount = "rows", float(int(number))
    elif unit in BYTES:
        kind, amount = "bytes", float(int(float(number) * BYTES[unit]))
    elif unit in SECONDS:
        kind, amount = "seconds", float(number) * SECONDS[unit]
    else:
        kind, amount = "", 0.0
    if not 0 < amount <= MOST:
        raise ValueError(
            f"must be a number of rows (2000), bytes (20MB, 512KiB) or search time per image (5ms, 0.2s), got {text!r}"
        )
    return Budget(kind, amount)
