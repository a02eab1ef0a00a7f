"""Means and spreads over seeds and sets are those that the definition gives; tables hold all of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_fast.comparison.plan import Cell, Entry
from patchcore_fast.comparison.run import Done
from patchcore_fast.comparison.table import lines_of, results, text_of, write_table
from patchcore_fast.report.comparison import COLUMNS, METRICS

SETS, METHODS, SEEDS = ("bolt", "nut"), ("patchcore", "rd"), (0, 1, 2)
CELLS = [Cell(s, Path(s), m, i) for s in SETS for m in METHODS for i in SEEDS]
ENTRIES = [Entry(m, {"selection": {"seed": 0}}) for m in METHODS]


def record(cell: Cell, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng([len(cell.set), len(cell.method), cell.seed])
    metrics = {name: float(rng.random()) for name in METRICS}
    if cell.set == "nut":
        metrics["aupro"] = None  # no masks
    return {"error": None, "metrics": metrics, "train_s": float(rng.random()), "image_ms": 3.0, "peak_mib": 900.0,
            "train": 3, "test": 4, "anomalous": 2, "unread": [], "notes": [], "environment": {}} | changes  # fmt: skip


@pytest.fixture
def done() -> list[Done]:
    """One cell of rd on nut failed, and the last one is still to come."""
    found = [Done(cell, record(cell)) for cell in CELLS[:-1]]
    found[-1] = Done(CELLS[-2], {"error": "a loss that is not finite"})
    return found


def test_lines(done: list[Done]) -> None:
    lines = lines_of(CELLS, done)
    assert [(line.set, line.method) for line in lines] == [(s, m) for s in (*SETS, None) for m in METHODS]
    by = {(line.set, line.method): line for line in lines}
    known = {each.cell: each.record for each in done if each.error is None}

    def numbers(name: str, method: str) -> list[float]:
        return [known[c]["metrics"]["image_ap"] for c in CELLS if c in known and (c.set, c.method) == (name, method)]

    for name in SETS:
        value = by[name, "patchcore"].values["image_ap"]
        assert value.mean == pytest.approx(np.mean(numbers(name, "patchcore")))
        assert value.spread == pytest.approx(np.std(numbers(name, "patchcore"), ddof=1)) and value.count == 3
    both = np.array([numbers(name, "patchcore") for name in SETS])  # sets x seeds
    mean = by[None, "patchcore"].values["image_ap"]
    assert mean.mean == pytest.approx(both.mean()) and mean.spread == pytest.approx(both.mean(0).std(ddof=1))
    assert mean.count == 2 and by[None, "patchcore"].values["aupro"].count == 1
    assert "aupro" not in by["nut", "patchcore"].values

    failing = by["nut", "rd"]
    assert failing.errors == ["seed 1: a loss that is not finite"] and failing.waiting == 1
    assert failing.values["image_ap"].count == 1 and failing.values["image_ap"].spread is None
    mean = by[None, "rd"].values["image_ap"]  # seed 0 alone has both sets
    assert mean.mean == pytest.approx((np.mean(numbers("bolt", "rd")) + numbers("nut", "rd")[0]) / 2)
    assert mean.spread is None


def test_one_set_has_no_mean(done: list[Done]) -> None:
    assert {line.set for line in lines_of(CELLS[:6], done)} == {"bolt"}


def test_text(done: list[Done]) -> None:
    text = text_of(lines_of(CELLS, done))
    assert [part.split()[0] for part in text.split("\n\n")[:3]] == ["bolt", "nut", "mean"]
    assert "±" in text and "nut, rd: seed 1: a loss that is not finite" in text
    only = [Done(c, record(c)) for c in CELLS if (c.set, c.method) != ("nut", "rd")]
    assert "rd (of 1 sets)" in text_of(lines_of(CELLS, only))


def test_files(done: list[Done], tmp_path: Path) -> None:
    write_table(tmp_path, "two", CELLS, done, ENTRIES)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["sets"] == list(SETS) and found["seeds"] == [0, 1, 2] and list(found["methods"]) == list(METHODS)
    assert [cell["status"] for cell in found["cells"]] == ["done"] * 10 + ["failed", "pending"]
    assert found["cells"][0]["metrics"] == done[0].record["metrics"] and "made" not in found["cells"][0]
    assert found["lines"][0]["values"]["train_s"]["count"] == 3
    assert results("two", CELLS, done, ENTRIES, lines_of(CELLS, done))["lines"] == found["lines"]
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [(row["set"], row["method"]) for row in rows] == [(s, m) for s in (*SETS, "mean") for m in METHODS]
    assert set(rows[0]) == {"set", "method", "status", "seeds", "error", *COLUMNS, *(f"{c}_std" for c in COLUMNS)}
    assert rows[3]["status"] == "failed" and rows[3]["image_ap_std"] == "" and rows[2]["aupro"] == ""
    line = lines_of(CELLS, done)[0].values["train_s"]
    assert float(rows[0]["train_s"]) == pytest.approx(line.mean)
    assert float(rows[0]["train_s_std"]) == pytest.approx(line.spread)
