"""speed/search_prepared.py: nothing is shown of wrong neighbours, and what it writes says what was computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import ROOT
from benchmarks.speed import search_prepared

SMALL = ["--gaussian", "300", "20", "8", "--neighbours", "2", "--isas", "auto", "--rounds", "1"]


class Stand:
    """In faiss's place."""

    uses = {"faiss": "AVX2", "openblas": "Haswell"}

    def __init__(self, isa: str) -> None:
        self.isa = isa

    def takes(self, bank: torch.Tensor, query: torch.Tensor) -> None:
        self.given = query, bank

    def search(self, k: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        return 1.0, *torch.cdist(*self.given).topk(k, largest=False)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_prepared, "Faiss", Stand)


def test_runs_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search_prepared.main([*SMALL, "--json", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    (problem,) = written["problems"]
    assert written["faiss"] == {"auto": Stand.uses}
    assert [row["method"] for row in problem["rows"]] == ["faiss auto", "knn auto", "prepared auto"]
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
        assert search_prepared.shown([*device.glob("search_prepared*.json")]) in page


def test_each_set_has_a_faiss_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = {
        "environment": {"device": "a CPU", "commit": "c", "date": "d"}, "load_before": 0.0,
        "options": {"isas": ["avx2", "auto"], "weights": "auto", "backbone": "b"},
        "faiss": {"avx2": Stand.uses, "auto": {"faiss": "AVX512", "openblas": "SkylakeX"}}, "problems": [],
    }  # fmt: skip
    rows = [{"method": f"{what} {isa}", "median_s": t, "times_faster": 8.0 / t, "share": 0.1, "bytes_of_bank": 1.0,
             "prepare_s": 1.0} for isa, t in (("avx2", 4.0), ("auto", 2.0))
            for what in ("faiss", "knn", "prepared")]  # fmt: skip
    result["problems"] = [{"rows_of": "gaussian", "bank": [9, 8], "queries": 7, "k": 1, "rows": rows}]
    text = search_prepared.page([result])
    assert "| faiss, AVX2 | `knn`, AVX2 | prepared, AVX2 | share, AVX2 | faiss, all |" in text
    assert "| gaussian, 7 x 9 x 8, 1 | 4.00 s | 4.00 s (2) | 4.00 s (2) | 10 % | 2.00 s | 2.00 s (4) |" in text
    assert "AVX2: loops of AVX2, OpenBLAS for Haswell; all: loops of AVX512, OpenBLAS for SkylakeX." in text


def test_faiss_is_held_to_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.undo()
    bank = torch.arange(12.0).reshape(4, 3)
    held = search_prepared.Faiss("avx2")
    try:
        assert held.uses["faiss"] in ("AVX2", "NONE") and held.uses["openblas"] == "Haswell"
        held.takes(bank, bank[1:2] + 0.1)
        seconds, _, rows = held.search(2)
        assert seconds > 0 and rows.tolist()[0][0] == 1
    finally:
        held.close()
    monkeypatch.setattr(search_prepared, "WITHIN_AVX2", {"faiss": set(), "openblas": set()})
    with pytest.raises(SystemExit, match="was to be held to AVX2, and uses"):
        search_prepared.Faiss("avx2")


def test_wrong_neighbours_show_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_prepared, "knn", lambda query, bank, k: (torch.ones(20, 2), torch.zeros(20, 2).long()))
    with pytest.raises(SystemExit, match="not the neighbours of brute force; no times are shown"):
        search_prepared.main(SMALL)
