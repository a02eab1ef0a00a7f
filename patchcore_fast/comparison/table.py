"""Cells to lines: means and spreads over seeds, the mean over sets; as text, as results.json and results.csv."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from patchcore_fast.comparison.plan import Cell, Entry
from patchcore_fast.comparison.run import Done
from patchcore_fast.report.comparison import COLUMNS, COSTS, METRICS, Line, Value, shown
from patchcore_fast.report.scores_csv import write_scores_csv
from patchcore_fast.report.tables import metrics_table, write_json

JSON, CSV = "results.json", "results.csv"
FORMAT, FORMAT_VERSION = "patchcore_fast.comparison", 1
SCREEN = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "pixel_iou_max", *COSTS)  # of the printed table


def lines_of(cells: Sequence[Cell], done: Sequence[Done]) -> list[Line]:
    """A line a method for each set, in the order of the cells; with several sets also of their mean.

    The mean is over those sets that a method has; its spread is that of the mean over sets, seed by seed, over seeds
    that have all of these.
    """
    known = {each.cell: each for each in done}
    sets, methods = (list(dict.fromkeys(getattr(cell, part) for cell in cells)) for part in ("set", "method"))
    found = [_line(name, method, [c for c in cells if (c.set, c.method) == (name, method)], known)
             for name in sets for method in methods]  # fmt: skip
    return found + [_mean(method, cells, known) for method in methods if len(sets) > 1]


def _line(name: str, method: str, own: Sequence[Cell], known: Mapping[Cell, Done]) -> Line:
    values = {}
    for column in COLUMNS:
        numbers = [v for cell in own if (v := _number(known.get(cell), column)) is not None]
        if numbers:
            values[column] = Value(statistics.fmean(numbers), _spread(numbers), len(numbers))
    errors: dict[str, list[int]] = {}
    for cell in own:
        if cell in known and (error := known[cell].error) is not None:
            errors.setdefault(error, []).append(cell.seed)
    said = [text if len(seeds) == len(own) else f"seed {', '.join(map(str, seeds))}: {text}"
            for text, seeds in errors.items()]  # fmt: skip
    return Line(name, method, values, said, sum(cell not in known for cell in own))


def _mean(method: str, cells: Sequence[Cell], known: Mapping[Cell, Done]) -> Line:
    values = {}
    for column in COLUMNS:
        by_set: dict[str, dict[int, float]] = {}
        for cell in cells:
            if cell.method == method and (v := _number(known.get(cell), column)) is not None:
                by_set.setdefault(cell.set, {})[cell.seed] = v
        if by_set:
            seeds = set.intersection(*(set(of) for of in by_set.values()))
            each = [statistics.fmean(of[seed] for of in by_set.values()) for seed in sorted(seeds)]
            whole = statistics.fmean(statistics.fmean(of.values()) for of in by_set.values())
            values[column] = Value(whole, _spread(each), len(by_set))
    return Line(None, method, values)


def _number(done: Done | None, column: str) -> float | None:
    if done is None or done.error is not None:
        return None
    found = done.record[column] if column in COSTS else done.record["metrics"][column]
    return None if found is None or not math.isfinite(found) else float(found)


def _spread(numbers: Sequence[float]) -> float | None:
    return statistics.stdev(numbers) if len(numbers) > 1 else None


def text_of(lines: Sequence[Line]) -> str:
    """For a screen: a table a set, and of the mean; below them why methods have no numbers."""
    parts = []
    for name in dict.fromkeys(line.set for line in lines):
        own = [line for line in lines if line.set == name]
        most = max((v.count for line in own for v in line.values.values()), default=0)
        rows: dict[str, dict[str, Any]] = {}
        for line in own:
            row = {COLUMNS[c][0]: shown(c, line.values.get(c)) or "-" for c in SCREEN}
            few = max((v.count for v in line.values.values()), default=0)
            rows[line.method + (f" (of {few} sets)" if name is None and few < most else "")] = row
        parts.append(metrics_table(rows, corner="mean of sets" if name is None else name))
    failed = [f"{line.set}, {line.method}: {error}" for line in lines for error in line.errors]
    return "\n\n".join([*parts, *(["\n".join(failed)] if failed else [])])


def write_table(
    folder: Path, name: str, cells: Sequence[Cell], done: Sequence[Done], methods: Sequence[Entry]
) -> dict[str, Any]:
    """Write results.json and results.csv, each whole, and give what the first holds."""
    lines = lines_of(cells, done)
    found = results(name, cells, done, methods, lines)
    write_json(folder / JSON, found)
    columns = ["set", "method", "status", "seeds"]
    columns += [part for column in COLUMNS for part in (column, f"{column}_std")] + ["error"]
    rows = []
    for line in lines:
        row: dict[str, Any] = {
            "set": line.set or "mean",
            "method": line.method,
            "error": "; ".join(line.errors) or None,
        }
        row["status"] = "failed" if line.errors else "pending" if line.waiting else "done"
        row["seeds"] = max((v.count for v in line.values.values()), default=0) if line.set else None
        for column, value in line.values.items():
            row |= {column: value.mean, f"{column}_std": value.spread}
        rows.append(row)
    write_scores_csv(folder / CSV, rows, columns)
    return found


def results(
    name: str, cells: Sequence[Cell], done: Sequence[Done], methods: Sequence[Entry], lines: Sequence[Line]
) -> dict[str, Any]:
    """What results.json holds: settings, lines, and each cell."""
    known = {each.cell: each for each in done}
    rows = []
    for cell in cells:
        each = known.get(cell)
        row: dict[str, Any] = {"set": cell.set, "method": cell.method, "seed": cell.seed}
        row["status"] = "pending" if each is None else "done" if each.error is None else "failed"
        if each is not None:
            row |= {key: value for key, value in each.record.items() if key not in ("format", "format_version", "made")}
        rows.append(row)
    table = [{"set": line.set, "method": line.method, "errors": list(line.errors),
              "values": {c: vars(v) for c, v in line.values.items()}} for line in lines]  # fmt: skip
    return {
        "format": FORMAT, "format_version": FORMAT_VERSION, "name": name, "metrics": list(METRICS),
        "sets": list(dict.fromkeys(cell.set for cell in cells)), "seeds": sorted({cell.seed for cell in cells}),
        "methods": {entry.name: entry.settings for entry in methods}, "lines": table, "cells": rows,
    }  # fmt: skip
