"""accuracy/export.py: rows are of the files that they name, and the page shows the committed results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.accuracy import export

from ..pictures import write_mvtec

COMMITTED = sorted(ROOT.glob("benchmarks/results/*/export/*.json"))


@pytest.mark.thorough
def test_rows(tmp_path: Path, run: Callable[..., str]) -> None:
    weave = write_mvtec(tmp_path / "weave", train=4, good=2, bad=2, side=64)
    said = run(export, weave, "--weights", "random", "--image-size", 64, "--formats", ".pt2", "--max-train", 3,
               "--json", tmp_path / "r.json")  # fmt: skip
    result = json.loads((tmp_path / "r.json").read_text())
    rows = result["rows"]
    assert export.table(rows) in said and result["environment"]["commit"]
    assert [(r["format"], r["precision"]) for r in rows] == [("model", "fp32"), (".pt2", "fp32"), (".pt2", "fp16")]
    assert all(r["seconds"] > 0 and (r["train"], r["test"]) == (3, 4) for r in rows)
    assert rows[0]["largest_difference"] == 0 and 0 < rows[1]["largest_difference"] < 1e-4
    assert rows[1]["image_auroc"] == rows[0]["image_auroc"] and rows[1]["bytes"] > 1e6


def test_the_table() -> None:
    row = {"set": "a", "format": "model", "precision": "fp32", "bytes": None, "seconds": 0.0123, "image_auroc": 0.9,
           "pixel_auroc": 0.8, "largest_difference": 0.0, "median_difference": 0.0}  # fmt: skip
    more = {"format": ".onnx", "precision": "int8", "bytes": 1_234_567, "image_auroc": 0.8975,
            "largest_difference": 0.02, "median_difference": 0.0123}  # fmt: skip
    assert export.table([row, row | more]).splitlines()[2:] == [
        "| a | this package | fp32 |  | 12 |  |  | 0.9000 | 0.8000 |",
        "| a | .onnx | int8 | 1.2 | 12 | 1.2e-02 | 2.0e-02 | 0.8975 (-0.0025) | 0.8000 (+0.0000) |",
    ]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_page_shows_the_committed_result(path: Path) -> None:
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    assert export.table(json.loads(path.read_text())["rows"]) in page, path
