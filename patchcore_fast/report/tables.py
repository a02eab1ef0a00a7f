"""Numbers for people and for programs: text tables, CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patchcore_fast.files import atomic_write


def _cell(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def metrics_table(rows: Mapping[str, Mapping[str, Any]], *, digits: int = 3, corner: str = "") -> str:
    """Aligned plain text, one line per row; a number that is missing or NaN shows as "-".

    Parameters
    ----------
    rows : row name -> (column name -> value); the columns are those of all rows in order of appearance.
    digits : decimals of floats.
    corner : heading of the first column.
    """
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    lines = [[corner, *columns]]
    lines += [[name, *(_cell(row.get(c), digits) for c in columns)] for name, row in rows.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    text = ["  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines]  # fmt: skip
    text.insert(1, "-" * len(text[0]))
    return "\n".join(line.rstrip() for line in text)


def write_scores_csv(
    path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write one line per image; None and NaN become empty cells, floats keep float32's nine digits.

    Parameters
    ----------
    columns : headings and their order; the keys of the first row when left out.

    Raises
    ------
    ValueError : a row with a key that is no column, or neither rows nor columns.
    """
    rows = [dict(row) for row in rows]
    if columns is None:
        if not rows:
            raise ValueError("write_scores_csv: columns are needed when there are no rows")
        columns = list(rows[0])
    for i, row in enumerate(rows):
        if unknown := set(row) - set(columns):
            raise ValueError(f"write_scores_csv: row {i} has unknown columns {sorted(unknown)}")
    with atomic_write(path, "w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(columns)
        for row in rows:
            out.writerow([_csv_cell(row.get(c)) for c in columns])


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return "" if value is None else value


def _plain(value: Any) -> Any:
    """JSON has no NaN: it becomes null. NumPy and torch numbers become Python's."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def to_json(value: Any) -> str:
    """Strict JSON text, two spaces of indent."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write strict JSON, whole or not at all; NaN and infinity become null, paths become text."""
    text = to_json(value)
    with atomic_write(path, "w", encoding="utf-8") as f:
        f.write(text + "\n")
