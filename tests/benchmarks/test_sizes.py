"""accuracy/sizes.py: banks of several sizes from one selection, against banks selected for themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.accuracy import sizes

ROOT = Path(__file__).parents[2]


def test_a_smaller_bank_is_the_beginning_of_a_larger(
    textures: list[Path], tmp_path: Path, run: Callable[..., str]
) -> None:
    options = ["--backbone", "test_efficientnet", "--weights", "random", "--image-size", 64, "--map-size", 16]
    options += ["--sigma", 1, "--seeds", 0, "--images", 10, 4, 6, "--json", tmp_path / "s.json"]
    found = []
    for numbers in ((20, 40), (20,)):
        said = run(sizes, textures[0], *options, "--rows", *numbers)
        rows = json.loads((tmp_path / "s.json").read_text())["rows"]
        assert sizes.table(rows) in said and [r["bank"] for r in rows][1:] == list(numbers)
        found.append(next(r for r in rows if r["bank"] == 20))
    for name in ("image_auroc", "pixel_auroc", "pixel_ap", "bytes"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-12)
    assert found[0]["bytes"] == 20 * (found[0]["columns"] + 1) * 4


def test_the_sizes_of_a_set() -> None:
    assert sizes.sizes(102_400, [2000, 5000]) == [("1%", 1024), ("2,000", 2000), ("5,000", 5000)]
    assert sizes.sizes(6_000, [2000, 5000]) == [("1%", 60), ("2,000", 2000)]


def test_the_page_shows_the_committed_results() -> None:
    page = (ROOT / "docs/backbones.md").read_text(encoding="utf-8")
    for path in ROOT.glob("benchmarks/results/*/sizes/*.json"):
        assert sizes.table(json.loads(path.read_text())["rows"]) in page, path
