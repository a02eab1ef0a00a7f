"""Processes of providers: that they are told apart, limited, and what they die of is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import runs
from benchmarks.harness.worker import Worker, WorkerError
from benchmarks.speed import kcenter

from .conftest import Here, rows


def test_memory_and_death(tmp_path: Path, plugin: Path, in_process: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes: one takes 2 GB of 1.5, one dies, one works; the others do not notice."""
    monkeypatch.setattr(runs, "Worker", Worker)
    out = tmp_path / "memory.json"
    options = ["--case", "gaussian", "--n", "3000", "--d", "8", "--k", "10", "--repeat", "1", "--memory-gb", "1.5"]
    options += ["--plugin", str(plugin), "--providers", "hungry", "dying", "gemv loop"]
    kcenter.main([*options, "--json", str(out)])
    hungry, dying, loop = (rows(out)[name] for name in ("hungry", "dying", "gemv loop"))
    assert hungry["status"] == "failed" and "needs more than 1.5 GB" in hungry["message"] and "median_s" not in hungry
    assert 1.5 * 2**30 < hungry["peak_bytes"] < 2.6 * 2**30
    assert dying["status"] == "failed" and "SIGSEGV" in dying["message"] and "median_s" not in dying
    assert loop["status"] == "ok"


def test_an_answer_that_does_not_come_is_given_up(
    tmp_path: Path, plugin: Path, run: Callable[..., str], in_process: type[Here], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.ones((9, 2), np.float32))
    slow = Worker("kcenter", "slow", "cpu", 1 << 40, plugin=str(plugin))
    try:
        slow.ask(300, do="load", files={"features": str(tmp_path / "x.npy")}, seed=0, counts=[2])
        with pytest.raises(WorkerError, match="no answer within 1 s") as late:
            slow.ask(1, do="run", k=5, out=str(tmp_path / "out.npz"))
    finally:
        slow.close()
    assert late.value.kind == "time"

    def never(self: Here, timeout: float, **request: object) -> None:
        raise WorkerError("time", f"no answer within {timeout:.0f} s")

    monkeypatch.setattr(in_process, "ask", never)  # whatever is asked gets the seconds of --answer-s
    out = tmp_path / "out.json"
    run(kcenter, "--case", "gaussian", "--n", 500, "--d", 4, "--k", 5, "--answer-s", 12, "--providers", "gemv loop",
        "--json", out)  # fmt: skip
    assert rows(out)["gemv loop"]["status"] == "failed" and rows(out)["gemv loop"]["message"] == "no answer within 12 s"
