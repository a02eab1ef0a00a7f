"""A whole experiment: killed and resumed it gives the same table, and labels of test images decide nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from patchcore_fast.experiments import run as experiment
from patchcore_fast.experiments.combinations import grid, steps
from patchcore_fast.experiments.table import COLUMNS, MEASURED, read
from patchcore_fast.model import PatchCoreConfig

from ..pictures import quiet_scan

PLAN, _ = grid((-1.0, 0.0, 1.0), (10, 30), (0, 1), ("composite", "diversity"), [0.2], [0], limit=4)


def same(path: Path) -> list[dict[str, object]]:
    """The rows of a table without what is measured anew each time."""
    return [{c: row[c] for c in COLUMNS if c not in MEASURED} for row in read(path)]


@pytest.fixture(scope="module")
def whole(gathered, weave: Path, config: PatchCoreConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run without a break."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    shutil.copytree(gathered[0], folder)
    done = experiment.run("grid", quiet_scan(weave), config, PLAN, folder, share=0.5, progress=False)
    assert done.fresh == len(PLAN) and done.best is not None and not any(row["error"] for row in done.rows)
    return folder


def test_rows_have_all_measures(whole):
    rows = read(whole / "grid.csv")
    assert [row["name"] for row in rows] == [c.name for c in PLAN]
    for row in rows:
        assert row["rows"] == int(0.2 * 3 * 256)
        for name in (
            "auroc",
            "ap",
            "pixel_auroc",
            "pixel_ap",
            "iou",
            "test_auroc",
            "test_iou",
            "border_share",
            "choice",
        ):
            assert 0 <= row[name] <= 1
        assert row["covering_radius"] >= row["mean_distance"] > 0 and row["seconds"] > 0 and row["cpu_seconds"] >= 0
    greedy, drawn = rows[:2]
    assert greedy["covering_radius"] < drawn["covering_radius"]


@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_run_that_is_ended_and_goes_on_gives_the_same(whole, weave, config, tmp_path, monkeypatch, after):
    folder = tmp_path / "made"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("grid.csv", "best.toml"))
    tried, asked = experiment.tried, []

    def ending(combination, *rest):
        asked.append(combination.key)
        if len(asked) == after + 1:
            raise KeyboardInterrupt
        return tried(combination, *rest)

    monkeypatch.setattr(experiment, "tried", ending)
    with pytest.raises(KeyboardInterrupt):
        experiment.run("grid", quiet_scan(weave), config, PLAN, folder, share=0.5, progress=False)
    half = read(folder / "grid.csv")
    assert [row["name"] for row in half] == [c.name for c in PLAN[:after]]
    experiment.run("grid", quiet_scan(weave), config, PLAN, folder, share=0.5, progress=False)
    assert asked == [c.key for c in PLAN[: after + 1]] + [c.key for c in PLAN[after:]]
    assert same(folder / "grid.csv") == same(whole / "grid.csv")
    assert read(folder / "grid.csv")[:after] == half  # finished rows to the last digit, seconds too
    assert (folder / "best.toml").read_bytes() == (whole / "best.toml").read_bytes()


def test_labels_of_test_images_decide_nothing(whole, weave, config, tmp_path):
    data = Path(shutil.copytree(weave, tmp_path / "weave"))
    (data / "test/good").rename(data / "test/other")
    (data / "test/spot").rename(data / "test/good")
    (data / "test/other").rename(data / "test/spot")
    shutil.rmtree(data / "ground_truth")
    (tmp_path / "made").mkdir()
    experiment.run("grid", quiet_scan(data), config, PLAN, tmp_path / "made", share=0.5, progress=False)
    assert (tmp_path / "made/best.toml").read_bytes() == (whole / "best.toml").read_bytes()
    mine, theirs = read(tmp_path / "made/grid.csv"), read(whole / "grid.csv")
    for a, b in zip(mine, theirs, strict=True):
        assert a["test_auroc"] == pytest.approx(1 - b["test_auroc"])
        assert a["choice"] == b["choice"] and a["pixel_ap"] == b["pixel_ap"]


def test_the_chosen_file_fits(whole, weave, config, tmp_path):
    from patchcore_fast.model import PatchCore

    found = PatchCoreConfig.from_toml(whole / "best.toml")
    model = PatchCore(found, progress=False).fit(quiet_scan(weave))
    assert len(model.bank) == int(0.2 * 6 * 256)


def test_steps_without_test_images_and_a_bank_that_is_too_large(gathered, weave, config, tmp_path, monkeypatch):
    data = Path(shutil.copytree(weave, tmp_path / "weave"))
    shutil.rmtree(data / "test")
    (tmp_path / "made").mkdir()
    from patchcore_fast.experiments import trial

    monkeypatch.setattr(trial, "available_memory", lambda: 1000)
    done = experiment.run("steps", quiet_scan(data), config, steps([0.2], [0]), tmp_path / "made", share=0.5,
                          progress=False)  # fmt: skip
    assert done.best is None and "too many for what is free" in done.rows[0]["error"]
    assert [row["name"] for row in done.rows if row["error"]] == ["no coreset"]
    assert all(row["test_auroc"] is None and row["choice"] is not None for row in done.rows[1:])
    monkeypatch.undo()
    again = experiment.run("steps", quiet_scan(data), config, steps([0.2], [0]), tmp_path / "made", share=0.5,
                           progress=False)  # fmt: skip
    assert again.fresh == 1 and again.rows[0]["rows"] == 3 * 256 and again.rows[0]["covering_radius"] == 0
