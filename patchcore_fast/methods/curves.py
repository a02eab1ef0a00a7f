"""The curve of a training: a row an epoch, and which values were the best."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from patchcore_fast.files import atomic_write
from patchcore_fast.metrics import HEADLINE

CSV = "curves.csv"
Row = Mapping[str, float]  # "epoch" (the first is 1), "loss", "rate", "seconds", and what else is known


def write_curves(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """A table with a line an epoch, written whole; what an epoch has not is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path, "w", encoding="utf-8", newline="") as f:
        table = csv.DictWriter(f, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def best(rows: Sequence[Row]) -> dict[str, tuple[float, int]]:
    """Metric -> its best value and the first epoch that had it, of the metrics that there are."""
    found = {}
    for name in HEADLINE:
        values = [(row[name], -int(row["epoch"])) for row in rows if math.isfinite(row.get(name, math.nan))]
        if values:
            value, epoch = max(values)
            found[name] = (value, -epoch)
    return found


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of HEADLINE that are numbers."""
    return {name: float(v) for name in HEADLINE if (v := values.get(name)) is not None and math.isfinite(v)}
