"""speed/search_uses.py: what it writes says what was done, and nothing is shown of answers that differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import ROOT
from benchmarks.speed import search_uses


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(search_uses, "LOOKED", 1)
    draw = np.random.default_rng(0)
    spread = np.logspace(0, -1.5, 64)
    for name, count in (("bank", 400), ("queries", 2 * 24)):
        np.save(tmp_path / f"{name}.npy", (draw.standard_normal((count, 64)) * spread).astype(np.float32))
    files = ["--bank", str(tmp_path / "bank.npy"), "--queries", str(tmp_path / "queries.npy")]
    return [*files, "--grid", "4", "6", "--rows", "300", "--neighbours", "2", "--rounds", "1"]


def test_runs_and_writes(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search_uses.main([*small, "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["bank"] == [300, 64] and found["highest"][0]["searched"] == 24  # too few rows to take bounds from
    rows = [found["neighbours"][f"rows, {name}"] for name in ("true", "all three", "first")]
    assert 1 <= rows[0] <= rows[1] <= rows[2] <= 300
    assert set(found["file"]["processor_s"]) == {"load", "prepare", "centre", "directions", "read packed"}
    assert set(found["loops"]["2 images of 24 in each other"]) == {"plain", "prepared", "short rows"}
    assert "| 24 patches, 2 |" in capsys.readouterr().out


def test_other_scores_show_no_time(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(search_uses.HighestSearch):
        def search(self, query: torch.Tensor, k: int, *more: object) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones(len(query), k), torch.zeros(len(query), k).long()

    monkeypatch.setattr(search_uses, "HighestSearch", Wrong)
    with pytest.raises(SystemExit, match="highest: not what full gives; no times are shown"):
        search_uses.main([*small, "--parts", "highest"])


def test_the_page_shows_the_committed_results() -> None:
    page = (ROOT / "docs/search-uses.md").read_text(encoding="utf-8")
    for device in {file.parent for file in ROOT.glob("benchmarks/results/*/search_uses_*.json")}:
        found = [json.loads(file.read_text()) for file in sorted(device.glob("search_uses_*.json"), reverse=True)]
        assert search_uses.page(found) in page
