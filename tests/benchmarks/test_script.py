"""What is on disk when a script is cut off: every measurement up to there, and whether it had been judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import providers, records, runs, worker
from benchmarks.harness.providers import Problem, Provider
from benchmarks.harness.runs import Runner
from benchmarks.speed import kcenter, knn, rarity

from .conftest import rows

SMALL = ["--case", "gaussian", "--n", 3000, "--d", 6, "--repeat", 2]


@pytest.mark.parametrize("script, more", [(kcenter, []), (knn, ["--queries", 2500]), (rarity, [])],
                         ids=["kcenter", "knn", "rarity"])  # fmt: skip
def test_an_interrupt_keeps_what_was_measured(
    script: ModuleType, more: list[Any], tmp_path: Path, plugin: Path, run: Callable[..., str]
) -> None:
    """Ctrl-C comes in the second provider's first turn: the first one's time stands there, as not judged."""
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run(script, *SMALL, *more, "--k", 3, "--plugin", plugin, "--providers", "torch", "interrupted", "--json", out)
    found = rows(out)
    ours = found["patchcore_fast torch"]
    assert ours["status"] == "unjudged" and ours["median_s"] > 0 and ours["runs"] == 1 and ours["error"] is None
    assert (found["interrupted"]["status"], found["interrupted"]["message"]) == ("not run", "its turn had not come")
    told = records.as_text(json.loads(out.read_text())["problems"][0])
    assert "UNJUDGED: " in told and records.best_ours(found.values()) is None


def test_an_interrupt_while_judging_keeps_verdicts(
    tmp_path: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, seen = kcenter.Judge.judge, []

    def once(self: kcenter.Judge, row: runs.Row, *more: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(row.provider)
        judge(self, row, *more)

    monkeypatch.setattr(kcenter.Judge, "judge", once)
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run(kcenter, *SMALL, "--k", 3, 30, "--providers", "torch", "gemv loop", "--json", out)
    told = [[(r["provider"], r["status"]) for r in p["rows"]] for p in json.loads(out.read_text())["problems"]]
    assert seen == ["patchcore_fast torch"] or seen == ["gemv loop"]
    assert sum(status == "ok" for problem in told for _, status in problem) == 1
    assert sum(status == "unjudged" for problem in told for _, status in problem) == 3


def test_providers_open_side_by_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two that wait for each other: one after the other neither would open."""
    import threading

    both = threading.Barrier(2, timeout=20)

    class Waits:
        def __init__(self, *_: object) -> None:
            pass

        def ask(self, timeout: float, **request: object) -> dict[str, Any]:
            both.wait()
            return {"first_call_s": 1.0}

        def close(self) -> None:
            pass

    monkeypatch.setattr(runs, "Worker", Waits)
    pair = {name: Provider(name, name, "", Waits) for name in "ab"}
    going = Runner("kcenter", pair, together=True)
    try:
        problem = Problem(9, 2, 3, going.limit)
        going.first = {}
        going._start(list(pair.values()), problem)
        found = {name: [runs.Row(name, name, 3)] for name in pair}
        assert going._open_all(list(pair.values()), {}, found, problem) == list(pair.values())
    finally:
        going.close()


def test_searches_are_warmed_with_what_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []

    class Notes:
        def __init__(self, *_: object) -> None:
            pass

        def answer(self, k: int) -> dict[str, Any]:
            asked.append(k)
            return {}

    np.save(tmp_path / "x.npy", np.zeros((100, 2), np.float32))
    monkeypatch.setattr(worker, "_WARM_K", 50)
    monkeypatch.setattr(providers, "providers", lambda task, plugin: {"notes": Provider("notes", "notes", "", Notes)})
    for task, wanted in (("knn", [1, 9, 100]), ("kcenter", [1, 9, 50])):
        child = worker._Child(task, "notes", "cpu", 1 << 40, "")
        asked.clear()
        child.load({"bank": str(tmp_path / "x.npy")}, 0, [9, 1, 1000])
        assert asked == wanted


def test_memory_where_peaks_cannot_be_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import memory

    def refused(self: Path, text: str) -> int:
        raise PermissionError(str(self))

    monkeypatch.setattr(Path, "write_text", refused)
    memory.forget_peak()
    assert memory.peak() > 0
