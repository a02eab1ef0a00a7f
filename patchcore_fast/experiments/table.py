"""The table of an experiment as a file: one row a combination, each written as soon as it is known."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchcore_fast.errors import DataError
from patchcore_fast.experiments.combinations import WEIGHTS, Combination
from patchcore_fast.files import atomic_write

ACCURACY = ("auroc", "ap", "pixel_auroc", "pixel_ap", "iou")
MEASURES = (
    "rows", *ACCURACY, "choice", "covering_radius", "mean_distance", "border_share", "seconds", "cpu_seconds",
    "peak_memory_mb", *(f"test_{name}" for name in ACCURACY),
)  # fmt: skip
MEASURED = ("seconds", "cpu_seconds", "peak_memory_mb")  # other numbers are the same whenever they are computed
SETTINGS = (*WEIGHTS, "starting_points", "noise", "pool", "density", "clean")
COLUMNS = ("name", "sampler", "ratio", "seed", *SETTINGS, *MEASURES, "error")
_TEXTS, _COUNTS = ("name", "sampler", "pool", "density", "error"), ("seed", "starting_points", "noise", "rows")
_OPTION = {"starting_points": "density_subsample", "noise": "noise_T"}

Row = dict[str, Any]


def row_of(combination: Combination, facts: Row) -> Row:
    """A whole row, None where nothing is known."""
    options = combination.options
    row: Row = dict.fromkeys(COLUMNS) | {
        "name": combination.name, "sampler": combination.sampler, "ratio": combination.ratio, "seed": combination.seed,
    }  # fmt: skip
    row |= {name: options.get(_OPTION.get(name, name)) for name in SETTINGS} | facts
    if row["auroc"] is not None and row["pixel_auroc"] is not None:
        row["choice"] = (row["auroc"] + row["pixel_auroc"]) / 2
    return row


class Table:
    """grid.csv or steps.csv: rows in the order of the plan, whatever order they are added in.

    The file is replaced as a whole with each row (a thousand rows are half a megabyte), so a kill at any moment leaves
    all finished rows and nothing else. Rows that the plan does not have stay, behind those that it has.

    Parameters
    ----------
    path : of the CSV; its rows are read where it is there.  plan : combinations, in order.

    Attributes
    ----------
    rows : (name, ratio, seed) -> row.

    Raises
    ------
    DataError : a file that is no such table.
    """

    def __init__(self, path: str | os.PathLike[str], plan: Sequence[Combination]) -> None:
        self.path, self.plan = Path(path), list(plan)
        self.rows = {(row["name"], row["ratio"], row["seed"]): row for row in read(self.path)}

    @property
    def missing(self) -> list[Combination]:
        """What has still to be tried, in order; rows with an error too."""
        return [c for c in self.plan if self.rows.get(c.key, {"error": "none"})["error"]]

    @property
    def planned(self) -> list[Row]:
        """Finished rows of the plan, in order."""
        return [self.rows[c.key] for c in self.plan if c.key in self.rows]

    def add(self, combination: Combination, facts: Row) -> None:
        """Keep the measures of a combination, in the file too."""
        self.rows[combination.key] = row_of(combination, facts)
        self.write()

    def write(self) -> None:
        """The whole file."""
        planned = {c.key for c in self.plan}
        rows = self.planned + [row for key, row in self.rows.items() if key not in planned]
        with atomic_write(self.path, "w", encoding="utf-8", newline="") as f:
            lines = csv.writer(f, lineterminator="\n")
            lines.writerow(COLUMNS)
            lines.writerows([["" if row[c] is None else row[c] for c in COLUMNS] for row in rows])


def read(path: Path) -> list[Row]:
    """The rows of a table, none where there is no file. DataError: it is none."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as f:
            lines = list(csv.reader(f))
        if not lines or tuple(lines[0]) != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
            raise ValueError("other columns")
        return [{c: _value(c, text) for c, text in zip(COLUMNS, line, strict=True)} for line in lines[1:]]
    except (OSError, ValueError, csv.Error) as error:
        told = f"{path}: is no table of this experiment ({error}); remove it, or give another --output"
        raise DataError(told) from error


def _value(column: str, text: str) -> Any:
    if text == "":
        return None
    return text if column in _TEXTS else int(text) if column in _COUNTS else float(text)
