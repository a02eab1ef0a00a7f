"""speed/search_prepared.py: nothing is shown of wrong neighbours, and what it writes says what was computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import ROOT
from benchmarks.speed import search_prepared

SMALL = ["--gaussian", "300", "20", "8", "--neighbours", "2", "--isas", "auto", "--rounds", "1"]


@pytest.fixture(autouse=True)
def no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(bank: torch.Tensor, query: torch.Tensor, k: int) -> search_prepared.Search:
        return lambda: tuple(torch.cdist(query, bank).topk(k, largest=False))

    monkeypatch.setattr(search_prepared, "faiss_search", search)


def test_runs_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search_prepared.main([*SMALL, "--json", str(tmp_path / "out.json")])
    (problem,) = json.loads((tmp_path / "out.json").read_text())["problems"]
    assert [row["method"] for row in problem["rows"]] == ["faiss", "knn auto", "prepared auto"]
    assert problem["rows"][2]["share"] == 1 and problem["rows"][2]["work"]["pairs"] == 300 * 20
    assert "| prepared auto |" in capsys.readouterr().out


def test_what_goes_wrong_later_shows_no_time_either(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, whole = [], search_prepared.knn

    def knn(query: torch.Tensor, bank: object, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(bank)
        distance, rows = whole(query, bank, k)
        return distance, rows.roll(1) if len(calls) == 6 else rows  # a prepared bank, in the third turn

    monkeypatch.setattr(search_prepared, "knn", knn)
    with pytest.raises(SystemExit, match="prepared auto: not the neighbours"):
        search_prepared.main(SMALL)


def test_the_page_shows_the_committed_results() -> None:
    page = (ROOT / "docs/search.md").read_text(encoding="utf-8")
    for device in {file.parent for file in ROOT.glob("benchmarks/results/*/search_prepared*.json")}:
        files = [device / "search_prepared_vit.json", device / "search_prepared.json"]
        assert search_prepared.page([json.loads(file.read_text()) for file in files]) in page


def test_wrong_neighbours_show_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_prepared, "knn", lambda query, bank, k: (torch.ones(20, 2), torch.zeros(20, 2).long()))
    with pytest.raises(SystemExit, match="not the neighbours of brute force; no times are shown"):
        search_prepared.main(SMALL)
