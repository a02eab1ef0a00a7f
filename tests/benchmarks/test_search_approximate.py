"""speed/search_approximate.py: recall is counted, what is not installed is named, rows are interpolated on demand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ROOT
from benchmarks.speed import search_approximate


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    draw = np.random.default_rng(0)
    for name, count in (("bank", 4 * 36), ("queries", 40)):
        np.save(tmp_path / f"{name}.npy", draw.standard_normal((count, 12)).astype(np.float32))
    return ["--bank", str(tmp_path / "bank.npy"), "--queries", str(tmp_path / "queries.npy"), "--brute", "0",
            "--sizes", "100", "400", "--beside", "100", "--dense", "6", "--rounds", "1"]  # fmt: skip


def test_runs_and_writes(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half(bank: torch.Tensor, query: torch.Tensor, true: torch.Tensor, recall: float) -> object:
        assert recall == 0.99
        widths: list[int] = []

        def search() -> torch.Tensor:
            return torch.where(torch.arange(len(true)) < 2.5 * widths[-1], true, -1)

        return search, search_approximate.least(None, widths.append, search, true, recall)

    monkeypatch.setattr(search_approximate, "APPROXIMATE", {"half": ("torch", half), "none": ("no_such_module", half)})
    search_approximate.main([*small, "--json", str(tmp_path / "out.json")])
    told = capsys.readouterr().out
    assert "no_such_module: not installed, left out" in told and "| 400 interpolated | prepared |" in told
    result = json.loads((tmp_path / "out.json").read_text())
    first, second = result["problems"]
    assert [row["method"] for row in first["rows"]] == ["prepared", "half"] and len(second["rows"]) == 1
    assert (first["rows"][1]["width"], first["rows"][1]["recall"]) == (16, 1.0)
    assert (first["interpolated"], second["interpolated"]) == (False, True)
    plot = tmp_path / "plot.png"
    search_approximate.main(["--shown", str(tmp_path / "out.json"), "--plot", str(plot)])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_interpolated_rows_lie_between() -> None:
    maps = torch.arange(9.0).view(9, 1)
    rows, interpolated = search_approximate.rows_of(maps, 20, 3)
    assert interpolated and len(rows) == 20 and float(rows.min()) >= 0 and float(rows.max()) <= 8
    assert len(set(rows.flatten().tolist()) - set(range(9))) > 5
    with pytest.raises(SystemExit, match="20 rows are wanted, 9 are there: give --dense"):
        search_approximate.rows_of(maps, 20, None)


def test_the_page_shows_the_committed_results() -> None:
    page = (ROOT / "docs/search-uses.md").read_text(encoding="utf-8")
    for file in ROOT.glob("benchmarks/results/*/search_approximate.json"):
        assert search_approximate.page(json.loads(file.read_text())) in page
