"""Killed and started again while files come: each scored once, no line lost, memory flat."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from patchcore_fast.model import PatchCore

from .killed import check, forked, run_all, started

pytest.importorskip("watchdog", reason="the extra watch is not installed")


@pytest.mark.parametrize("way", ["link", "move"])
def test_some_hundred_files(bank: Path, weave: Path, tmp_path: Path, way: str) -> None:
    count = 160
    told, output = run_all(bank, weave, tmp_path, count, [10, 50, 100], forked, 120, "--folders", way,
                           "--settle", "0.2", burst=40, pause=0.1)  # fmt: skip
    assert told.code == 143 and re.search(r"latency p50 [\d,]+ ms, p95 [\d,]+ ms, p99 [\d,]+ ms", told.said), told.said
    assert "goes on from what is done" in told.said
    check(told, output, {f"{i:05d}.png" for i in range(count)})
    assert len(list((tmp_path / "in").iterdir())) == (count if way == "link" else 0)
    images = sorted((weave / "test").rglob("*.png"))
    scores = [p.score for p in PatchCore.load(bank).predict(images)]
    for line in told.lines:
        wanted = scores[int(Path(line["path"]).stem) % len(scores)]
        assert line["score"] == pytest.approx(wanted, rel=1e-5) and line["is_anomalous"] == (wanted > line["threshold"])


@pytest.mark.thorough
def test_ten_thousand_files(bank: Path, weave: Path, tmp_path: Path) -> None:
    """In bursts of a thousand; killed three times by SIGKILL."""
    count = 10_000
    told, output = run_all(bank, weave, tmp_path, count, [1500, 4000, 6500], started, 3000, "--every", "500",
                           burst=1000, pause=1.0)  # fmt: skip
    assert told.code == 143
    check(told, output, {f"{i:05d}.png" for i in range(count)})
    latencies = [line["latency"] for line in told.lines if "latency" in line]
    last = re.findall(r"latency p50 .* p99 [\d,]+ ms", told.said)[-1]
    working = [rss for lines, rss in told.memory if lines > 6600]
    half = len(working) // 2
    early, late = (statistics.median(part) for part in (working[:half], working[half:]))
    growth = (late - early) / 2**20
    p50, p99 = np.percentile(latencies, (50, 99))
    print(f"{last}; of all runs p50 {p50:.3f} s, p99 {p99:.3f} s; "
          f"said twice {len(told.lines) - count}; resident {early / 2**20:.1f} MiB, then {growth:+.1f}")  # fmt: skip
    assert growth < 10, "memory is flat"
