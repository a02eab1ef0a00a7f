"""accuracy/thinning.py: what is thinned, equal sizes, and a page that shows the committed results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
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


def test_banks_of_fewer_rows_than_rounds_are_of_all_images() -> None:
    """20 rows of 10 images; what stays in 100 rounds is cut at random, not by the order of the images."""
    x = torch.rand(2_000, 4, generator=torch.Generator().manual_seed(0))
    found = [thinning.Thinning(0.01, seed=seed).select(x) for seed in range(5)]
    assert all(len(rows) == len(rows.unique()) == 20 for rows in found)
    counts = torch.bincount(torch.cat(found) // 200, minlength=10)
    assert counts.min() > 0 and counts.max() < 30, counts


@pytest.mark.parametrize("x", [torch.eye(50), torch.ones(1_000, 4)], ids=["fewer rows than rounds", "equal rows"])
def test_rows_without_density_are_drawn(x: torch.Tensor) -> None:
    """No round can thin these; the published steps would not end for equal rows."""
    found = thinning.Thinning(0.5, seed=1).select(x)
    assert len(found) == len(found.unique()) == len(x) // 2
    halves = torch.bincount(found // (len(x) // 2), minlength=2)
    assert halves.min() > len(x) // 8, halves


def test_banks_are_of_one_size(textures: list[Path], tmp_path: Path, run: Callable[..., str]) -> None:
    options = [
        "--image-size", 64, "--map-size", 32, "--sigma", 1, "--weights", "random", "--banks", 0.05, "--rows", 400,
    ]  # fmt: skip
    said = run(thinning, *textures, *options, "--seeds", 0, 2, "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    rows = result["rows"]
    assert thinning.table(rows) in said and result["environment"]["commit"]
    assert not any(str(tmp_path.parent) in str(value) for value in result["options"].values())
    for name in ("brick", "grass"):
        own = [row for row in rows if row["set"] == name]
        assert [(row["seed"], row["arm"]) for row in own] == [(s, arm) for s in (0, 2) for arm in thinning.ARMS] * 2
        assert [row["bank"] for row in own] == [own[0]["patches"] // 20] * 6 + [400] * 6
        assert all(0 <= row["image_auroc"] <= 1 and row["select_s"] > 0 for row in own)


def test_each_layer_alone(textures: list[Path], tmp_path: Path, run: Callable[..., str]) -> None:
    options = ["--image-size", 64, "--map-size", 16, "--sigma", 1, "--weights", "random", "--banks", 0.05, "--seeds", 0]
    run(thinning, textures[0], *options, "--layers", 2, 3, "--json", tmp_path / "r.json")
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    found = {row["set"]: row["patches"] for row in rows}
    assert list(found) == ["brick, layer 2", "brick, layer 3"]
    assert found["brick, layer 2"] == 4 * found["brick, layer 3"]  # of its own grid
    assert len(rows) == 2 * len(thinning.ARMS)


def test_the_table_has_means_ranges_and_medians() -> None:
    values = {"set": "a", "bank": 20, "patches": 2_000, "pixel_auroc": 0.5, "pixel_ap": None, "extra_bytes": 3e6}
    rows = [
        {**values, "arm": arm, "seed": seed, "image_auroc": auroc, "select_s": seconds}
        for seed, auroc, seconds in ((0, 0.9, 1.0), (1, 0.6, 9.0), (2, 0.9, 2.0))
        for arm in thinning.ARMS
    ]
    cells = " | 0.800 (0.600..0.900) / 0.500 /  | 2.0 | 3" * 3
    assert thinning.table(rows).splitlines()[2] == f"| a | 20 of 2,000{cells} |"
    assert "(" not in thinning.table(rows[:3])


def test_the_page_shows_the_committed_results() -> None:
    results = list(ROOT.glob("benchmarks/results/*/thinning/*.json"))
    assert results
    page = PAGE.read_text(encoding="utf-8")
    for path in results:
        assert thinning.table(json.loads(path.read_text())["rows"]) in page, path
