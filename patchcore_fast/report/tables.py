"""Numbers for people and for programs: text tables and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from patchcore_fast.files import atomic_write
from patchcore_fast.names import encodable, printable


def _cell(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else printable(str(value))


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
    lines += [[printable(name), *(_cell(row.get(c), digits) for c in columns)] for name, row in rows.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    text = ["  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines]  # fmt: skip
    text.insert(1, "-" * len(text[0]))
    return "\n".join(line.rstrip() for line in text)


def _plain(value: Any) -> Any:
    """JSON has no NaN: it becomes null. NumPy and torch numbers become Python's."""
    if isinstance(value, Mapping):
        return {encodable(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | os.PathLike):
        return encodable(value)
    return value


def to_json(value: Any) -> str:
    """Strict JSON text, two spaces of indent; names that are not UTF-8 are written out (`names.encodable`)."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write strict JSON, whole or not at all; NaN and infinity become null, paths become text."""
    text = to_json(value)
    with atomic_write(path, "w", encoding="utf-8") as f:
        f.write(text + "\n")
