"""speed/additive.py: nothing is shown of wrong picks, and the loops pick what the batched run does."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import additive


def test_runs_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "additive.json"
    sizes = ["--rows", "300", "--dim", "8", "--picks", "20", "--scales", "0.5", "--rounds", "1"]
    additive.main([*sizes, "--json", str(out)])
    (problem,) = json.loads(out.read_text())["problems"]
    assert problem["k"] == 20 and problem["passes"] >= 1
    assert [row["same_picks"] for row in problem["rows"]] == [20, 20, 20]
    assert "| float64 loop |" in capsys.readouterr().out


def test_wrong_picks_show_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = SimpleNamespace(indices=torch.arange(20))
    monkeypatch.setattr(additive, "additive_greedy", lambda *a, **k: wrong)
    with pytest.raises(SystemExit, match="not those of the plain loop; no times are shown"):
        additive.main(["--rows", "300", "--dim", "8", "--picks", "20", "--rounds", "1"])
    with pytest.raises(SystemExit, match="--picks: 1 to 30 are wanted, got 31"):
        additive.main(["--rows", "30", "--picks", "31"])
