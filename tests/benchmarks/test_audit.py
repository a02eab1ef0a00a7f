"""accuracy/audit.py: shares by hand, a small run, and pages that say what the committed results do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.accuracy import audit
from patchcore_fast.report.page.audit import FOUND, measured

PAGE = ROOT / "docs/audit.md"
(RESULT,) = ROOT.glob("benchmarks/results/*/audit/*.json")


def row(name: str, seed: int, arm: str, found: int, moved: int = 4, images: int = 40) -> dict:
    return {"set": name, "seed": seed, "arm": arm, "images": images, "moved": moved, "looked_at": 20, "found": found}


def test_sets_count_the_same() -> None:
    rows = [row("a", 0, "suspicion", 4), row("a", 1, "suspicion", 2), row("b", 0, "suspicion", 1, images=80),
            row("a", 0, "support", 0), row("a", 1, "support", 0), row("b", 0, "support", 4, images=80)]  # fmt: skip
    assert audit.share(rows, "suspicion") == pytest.approx((0.75 + 0.25) / 2)
    lines = audit.table({"rows": rows[:2] + rows[3:5], "holdout": [rows[2], rows[5]]}).splitlines()
    assert lines[2:] == ["| a | 4 of 40 | 0.50 | 0.00 | 0.75 |", "| **mean** |  | 0.50 | 0.00 | 0.75 |",
                         "| b (new) | 4 of 80 | 0.25 | 1.00 | 0.25 |",
                         "| **mean of new sets** |  | 0.25 | 1.00 | 0.25 |"]  # fmt: skip
    assert audit.found({"rows": rows, "holdout": []}) == {
        "sets": 2, "images": 80, "share": 0.5, "worst": 0.25, "best": 0.75, "chance": 0.375,
    }  # fmt: skip


def test_a_small_run(textures: list[Path], tmp_path: Path, run: Callable[..., str]) -> None:
    options = ["--image-size", 64, "--weights", "random", "--train", 12, "--share", 0.2, "--top", 4, "--seeds", 0, 1]
    said = run(audit, textures[0], "--holdout", textures[1], *options, "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert audit.table(result) in said and result["environment"]["commit"]
    assert [(r["set"], r["seed"], r["arm"]) for r in result["rows"]] == [("brick", s, a) for s in (0, 1)
                                                                       for a in audit.ARMS]  # fmt: skip
    for r in [*result["rows"], *result["holdout"]]:
        assert r["moved"] == 2 and r["images"] == 14 and 0 <= r["found"] <= 2
    assert not any(str(tmp_path.parent) in str(value) for value in result["options"].values())


def test_the_pages_say_what_the_committed_results_do() -> None:
    result = json.loads(RESULT.read_text())
    assert audit.table(result) in PAGE.read_text(encoding="utf-8")
    found = audit.found(result)
    assert {name: round(value, 2) for name, value in found.items()} == FOUND
    assert result["options"]["top"] == 20 and result["options"]["share"] == 0.1
    assert f"{found['share']:.0%} of the bad ones" in measured()
