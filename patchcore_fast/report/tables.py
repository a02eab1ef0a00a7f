"""Numbers for people and for programs: text tables, CSV and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from patchcore_fast.files import atomic_write
from patchcore_fast.names import encodable, shown


def _cell(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else shown(str(value))


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
    lines += [[shown(name), *(_cell(row.get(c), digits) for c in columns)] for name, row in rows.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    text = ["  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines]  # fmt: skip
    text.insert(1, "-" * len(text[0]))
    return "\n".join(line.rstrip() for line in text)


def write_scores_csv(
    path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write one line per image; None and NaN become empty cells, floats keep float32's nine digits.

    Text is UTF-8 whatever a file is called (`names.encodable`), and no cell begins as a formula of a spreadsheet does:
    a path gets "./" before it and stays the path that it is, other text gets an apostrophe.

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
    with atomic_write(path) as f:
        f.write(_csv_line(dict(zip(columns, columns, strict=True)), columns))
        f.writelines(_csv_line(row, columns) for row in rows)


@contextmanager
def score_rows(
    path: str | os.PathLike[str], columns: Sequence[str], expected: int = 0
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """`write_scores_csv` while the rows are being made: gives a function that takes one row.

    The file is in place when the block ends, in whatever way it ends: after an error or Ctrl-C it has the rows so far,
    if there are any.

    Parameters
    ----------
    columns : headings and their order.
    expected : bytes, about; this room on the disk is taken now, so that pictures cannot take it.

    Raises
    ------
    OSError : the disk has not that much room, or what the file system says.
    """
    stopped: BaseException | None = None
    with atomic_write(path, reserve=expected) as f:
        f.write(_csv_line(dict(zip(columns, columns, strict=True)), columns))
        rows = 0

        def add(row: Mapping[str, Any]) -> None:
            nonlocal rows
            f.write(_csv_line(row, columns))
            rows += 1

        try:
            yield add
        except BaseException as error:
            if not rows:
                raise
            stopped = error
    if stopped is not None:
        raise stopped


def _csv_line(row: Mapping[str, Any], columns: Sequence[str]) -> bytes:
    return (",".join(_csv_cell(c, row.get(c)) for c in columns) + "\n").encode("utf-8")


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # OWASP's, CSV injection


def _csv_cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = encodable(value)
    if text.lstrip(" ").startswith(FORMULA):
        text = ("./" if column == "path" else "'") + text
    # The csv module quotes for a comma alone; a spreadsheet of other settings also parts cells at these.
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',;"\t\r\n') else text


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
