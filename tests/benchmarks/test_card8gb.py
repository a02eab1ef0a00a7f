"""gpu/card8gb.py on the CPU, tiny; what it keeps of a problem that fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import card8gb
from benchmarks.harness import options, records, sources


@pytest.mark.parametrize("problems", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_dry_run(
    problems: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(card8gb, "TINY", card8gb.TINY[-problems:])
    out = tmp_path / "card.json"
    card8gb.main([str(out), "--dry-run"])
    found = records.read(out)
    assert [(p["n"], p["d"], p["k"]) for p in found["problems"]] == [(3000, 48, 30), (4000, 16, 30)][-problems:]
    for problem in found["problems"]:
        assert {r["provider"]: r["status"] for r in problem["rows"]} == {"patchcore_fast torch": "ok"}
    assert found["options"]["memory_gb"] == 8 and found["environment"]["commit"]
    text = capfd.readouterr().out
    assert "low-rank: 30 picks of 4,000 x 16" in text and f"{out} is the file to send" in text


def test_the_full_commands_can_be_read(in_process: object, tmp_path: Path) -> None:
    sizes = []
    for problem in card8gb.PROBLEMS:
        words = card8gb.command(problem, "cuda", 7.0, tmp_path / "x.json", dry=False)
        args, unknown = options.parser("kcenter", "").parse_known_args(words[3:])
        args.device = "cpu"
        options.finish(args, {})
        chosen = set(options.chosen(args, "kcenter"))
        assert {"patchcore_fast", "patchcore_fast cuda", "patchcore_fast triton", "gemv loop", "anomalib"} <= chosen
        assert "amazon exact" not in chosen and args.memory_gb == 7 and args.answer_s == 300
        assert [w for w in unknown if w.startswith("--")] == ["--k", "--check-picks"]
        sizes.append((args.n[0], options.cases.CASES[args.case[0]].d))
    assert sizes == [(1_000_000, 1536), (10_000_000, 128)]


def test_a_problem_that_dies_keeps_its_rows_and_the_next_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    row = {"provider": "gemv loop", "family": "loop", "k": 5, "k_timed": 5, "status": "unjudged", "message": "",
           "error": None, "leading": None, "extra_bytes": 0, "peak_bytes": 0, "facts": {}, "median_s": 0.5,
           "min_s": 0.5, "max_s": 0.5, "runs": 1, "extrapolated_from": None}  # fmt: skip
    result = {"benchmark": "kcenter", "environment": {}, "options": {}}
    problem = {"case": "made", "about": "up", "n": 9, "d": 2, "k": 5, "rows": [row]}
    records.write(tmp_path / "good.json", {**result, "problems": [problem]})

    def stub(asked: Any, device: str, memory_gb: float, out: Path, dry: bool) -> list[str]:
        first = asked is card8gb.TINY[0]
        code = (
            f"import os, shutil, sys; shutil.copy({str(tmp_path / 'good.json')!r}, {str(out)!r}); os._exit({3 * first})"
        )
        return [sys.executable, "-S", "-c", code]

    monkeypatch.setattr(card8gb, "command", stub)
    with pytest.raises(SystemExit, match=r"--case million .*: status 3"):
        card8gb.main([str(tmp_path / "card.json"), "--dry-run"])
    found = json.loads((tmp_path / "card.json").read_text())
    assert len(found["problems"]) == 2 and found["problems"][0]["rows"][0]["status"] == "unjudged"
    assert "UNJUDGED: 500 ms" in capfd.readouterr().out


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"--memory-gb: 1 to 1000 are wanted, got 0\.5"):
        card8gb.main([str(tmp_path / "x.json"), "--memory-gb", "0.5"])
    monkeypatch.setattr(sources, "commit", lambda: sources.UNKNOWN)
    with pytest.raises(SystemExit, match="which commit is this"):
        card8gb.main([str(tmp_path / "x.json")])
