"""scores.csv: one line an image, with the same columns by predict, evaluate, watch and examples/run_exported.py."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from patchcore_fast.files import atomic_write
from patchcore_fast.names import encodable

COLUMNS = ("path", "score", "is_anomalous", "label", "defect_type", "heatmap", "error")
"""Columns of scores.csv, and names of these values in `Evaluation.images`, metrics.json and the page.

path : the file; as it was given or found (predict, watch), relative to the set (evaluate).
score : of the image, larger is more anomalous; nine digits keep float32. Empty for a file that could not be read.
is_anomalous : the verdict, True where the score is above the threshold; empty without a threshold or a score.
label : the truth, 0 normal, 1 anomalous; empty where it is not known, as in predict.
defect_type : folder of an anomalous image (test/<defect type>); empty for others.
heatmap : the picture, relative to the output folder; empty where there is none.
error : why the image could not be read or, beside a score, why its mask could not be used.
"""

# What makes a spreadsheet take a cell for a formula (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


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
        f.write(_line(dict(zip(columns, columns, strict=True)), columns))
        f.writelines(_line(row, columns) for row in rows)


@contextmanager
def append_scores(
    path: str | os.PathLike[str], expected: int = 0, columns: Sequence[str] = COLUMNS
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """`write_scores_csv` while the rows are being made: gives a function that takes one row.

    The file is in place when the block ends, in whatever way it ends: after an error or Ctrl-C it has the rows so far,
    if there are any.

    Parameters
    ----------
    expected : bytes, about; this room on the disk is taken now, so that pictures cannot take it.
    columns : headings and their order.

    Raises
    ------
    OSError : the disk has not that much room, or what the file system says.
    """
    stopped: BaseException | None = None
    with atomic_write(path, reserve=expected) as f:
        f.write(_line(dict(zip(columns, columns, strict=True)), columns))
        rows = 0

        def add(row: Mapping[str, Any]) -> None:
            nonlocal rows
            f.write(_line(row, columns))
            rows += 1

        try:
            yield add
        except BaseException as error:
            if not rows:
                raise
            stopped = error
    if stopped is not None:
        raise stopped


def scores_line(row: Mapping[str, Any]) -> bytes:
    """One row of COLUMNS as its line, for a file that grows: what is there already came from `append_scores`."""
    return _line(row, COLUMNS)


def _line(row: Mapping[str, Any], columns: Sequence[str]) -> bytes:
    return (",".join(_cell(c, row.get(c)) for c in columns) + "\n").encode("utf-8")


def _cell(column: str, value: Any) -> str:
    if column == "label" and value == -1:  # of `ImageRecord`: not known
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = encodable(value)
    if text.lstrip(" ").startswith(FORMULA):
        text = ("./" if column == "path" else "'") + text
    # The csv module quotes for a comma alone; a spreadsheet of other settings also parts cells at these.
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',;"\t\r\n') else text
