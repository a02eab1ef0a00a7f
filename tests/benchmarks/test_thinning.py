"""accuracy/thinning.py: what is thinned, equal sizes, and a page that shows the committed results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import ROOT
from benchmarks.accuracy import thinning

PAGE = ROOT / "docs/thinning.md"


def test_dense_places_are_thinned() -> None:
    """9 of 10 rows lie in a small ball; thinning keeps far fewer of them than a draw would."""
    drawing = torch.Generator().manual_seed(0)
    x = torch.rand(20_000, 4, generator=drawing)
    x[:18_000] *= 0.05
    found = thinning.Thinning(0.05, seed=1).select(x)
    assert len(found) == len(found.unique()) == 1_000
    assert torch.equal(found, thinning.Thinning(0.05, seed=1).select(x))
    assert float((found < 18_000).float().mean()) < 0.75


def test_banks_are_of_one_size(textures: list[Path], tmp_path: Path, run: Callable[..., str]) -> None:
    options = [
        "--image-size",
        64,
        "--map-size",
        32,
        "--sigma",
        1,
        "--weights",
        "random",
        "--banks",
        0.05,
        "--rows",
        400,
    ]
    said = run(thinning, *textures, *options, "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    rows = result["rows"]
    assert thinning.table(rows) in said and result["environment"]["commit"]
    assert not any(str(tmp_path.parent) in str(value) for value in result["options"].values())
    for name in ("brick", "grass"):
        own = [row for row in rows if row["set"] == name]
        assert [row["arm"] for row in own] == [*thinning.ARMS] * 2
        assert [row["bank"] for row in own] == [own[0]["patches"] // 20] * 3 + [400] * 3
        assert all(0 <= row["image_auroc"] <= 1 and row["select_s"] > 0 for row in own)


def test_the_page_shows_the_committed_results() -> None:
    results = list(ROOT.glob("benchmarks/results/*/thinning/*.json"))
    assert results
    page = PAGE.read_text(encoding="utf-8")
    for path in results:
        assert thinning.table(json.loads(path.read_text())["rows"]) in page, path
