"""pages/render.py: from results to pages and figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pages import render
from benchmarks.pages.plots import apart


def test_render(tmp_path: Path, small_kcenter: Path, run: Callable[..., str]) -> None:
    results, readme = tmp_path / "results" / "box", tmp_path / "README.md"
    results.mkdir(parents=True)
    shutil.copy(small_kcenter, results)
    readme.write_text("before\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nafter\n")
    place = ["--results", tmp_path / "results", "--root", tmp_path]
    with pytest.raises(SystemExit, match="stale"):
        run(render, *place, "--check")
    run(render, *place)
    run(render, *place, "--check")
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "gaussian: 40 picks of 1,500 x 8" in page and (tmp_path / "docs/benchmarks/box-kcenter.png").exists()
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "old" not in text and "| 40 of 1,500 x 8" in text
    readme.write_text(text.replace("passes", "steps"))
    with pytest.raises(SystemExit, match=r"stale.*README\.md"):
        run(render, *place, "--check")


def test_committed_pages_are_what_the_results_give(run: Callable[..., str]) -> None:
    run(render, "--check")


def test_labels_are_moved_apart() -> None:
    assert apart([0.0, 5.0], 1.0) == [0.0, 5.0]
    placed = apart([0.0, 1.0, 1.1, 1.2, 9.0], 1.0)
    assert placed == sorted(placed) and min(np.diff(placed)) >= 1 - 1e-9 and placed[-1] == 9.0
