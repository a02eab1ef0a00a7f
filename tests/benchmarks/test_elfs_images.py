"""accuracy/elfs_images.py: means by hand, a small run, and a page that says what the committed result does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.accuracy import elfs_images

PAGE = ROOT / "docs/elfs.md"
(RESULT,) = ROOT.glob("benchmarks/results/*/elfs_images/*.json")


def test_sets_count_the_same() -> None:
    rows = [{"set": name, "seed": seed, "arm": "support", "auroc": auroc, "images": 20, "moved": 2}
            for name, seed, auroc in (("a", 0, 1.0), ("a", 1, 0.5), ("b", 0, 0.25), ("b", 1, None))]  # fmt: skip
    assert elfs_images.mean(rows, "support") == pytest.approx((0.75 + 0.25) / 2)
    lines = elfs_images.table({"rows": rows}).splitlines()
    assert lines[0] == "| | a (2 of 20) | b (2 of 20) | mean |" and lines[2] == "| support | 0.75 | 0.25 | 0.50 |"
    assert lines[3] == "| kmeans aum | nan | nan | nan |"


def test_a_small_run(textures: list[Path], tmp_path: Path, run: Callable[..., str]) -> None:
    options = ["--image-size", 64, "--weights", "random", "--train", 12, "--share", 0.2, "--seeds", 0]
    said = run(elfs_images, textures[0], *options, "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert elfs_images.table(result) in said and result["environment"]["commit"]
    assert [row["arm"] for row in result["rows"]] == list(elfs_images.ARMS)
    for row in result["rows"]:
        assert row["moved"] == 2 and row["images"] == 14 and 0 <= row["auroc"] <= 1 and row["seconds"] > 0


def test_the_page_says_what_the_committed_result_does() -> None:
    result = json.loads(RESULT.read_text())
    assert elfs_images.table(result) in PAGE.read_text(encoding="utf-8")
    assert result["options"]["share"] == 0.1 and result["options"]["seeds"] == [0, 1, 2]
