"""Cells: each measured once, taken where it was made alike, and what fails does not stop the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.comparison import run as comparison
from patchcore_fast.comparison.plan import Cell, cells, entries
from patchcore_fast.comparison.publish import notes
from patchcore_fast.comparison.record import read_record
from patchcore_fast.comparison.run import Done, run, start
from patchcore_fast.comparison.table import lines_of
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.features.source import FeatureSource
from patchcore_fast.methods.padim import Padim
from patchcore_fast.model import PatchCore
from patchcore_fast.report.comparison import COSTS, METRICS

from ..compared import Fake
from ..pictures import quiet_scan
from .conftest import SHARED

METHODS = entries(("patchcore", "padim"), {}, SHARED)


def measured(root: Path, output: Path, sets: tuple[str, ...] = ("bolt", "nut"), methods: Any = METHODS,
             seeds: int = 2) -> list[Done]:  # fmt: skip
    output.mkdir(exist_ok=True)
    return list(run(cells([root / name for name in sets], methods, range(seeds)), methods, output))


def asked(started: list[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """(set, method, seed) of the jobs."""
    return [(Path(job["folder"]).name, job["method"], job["settings"]["selection"]["seed"]) for job in started]


def test_a_cell_is_what_the_method_gives_by_itself(root: Path, tmp_path: Path, started: list) -> None:
    found = measured(root, tmp_path / "out", ("bolt",), METHODS, 1)
    assert asked(started) == [("bolt", e.name, 0) for e in METHODS] and all(each.error is None for each in found)
    images = quiet_scan(root / "bolt")
    models = PatchCore(PatchCoreConfig(**SHARED), progress=False), Padim(PatchCoreConfig(**SHARED), progress=False)
    for each, model in zip(found, models, strict=True):
        alone = model.fit(images).evaluate(images).to_dict()["metrics"]
        assert each.record["metrics"] == {name: alone[name] for name in METRICS}
        assert None not in each.record["metrics"].values()
    for each in found:
        assert each.record["train_s"] > 0 and each.record["image_ms"] > 0 and each.record["peak_mib"] > 50
        assert [each.record[n] for n in ("train", "test", "anomalous")] == [3, 4, 2] and not each.record["unread"]
        assert each.record["environment"]["device"] == "cpu"


def test_what_is_finished_is_taken(root: Path, tmp_path: Path, started: list, fake: Callable[[Any], None]) -> None:
    first = measured(root, tmp_path / "out")
    assert len(started) == 8 and not any(each.kept for each in first)
    again = measured(root, tmp_path / "out")
    assert len(started) == 8 and all(each.kept for each in again)
    assert [each.record for each in again] == [each.record for each in first]
    more = measured(root, tmp_path / "out", seeds=3)
    assert asked(started)[8:] == [(s, m, 2) for s in ("bolt", "nut") for m in ("patchcore", "padim")]
    assert [each.record for each in more if each.cell.seed < 2] == [each.record for each in first]


@pytest.mark.parametrize("change", ["settings", "files", "weights", "damage", "version", "threads"])
def test_what_has_changed_is_measured_anew(
    root: Path, tmp_path: Path, started: list, fake: Callable[[Any], None], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(root / "bolt", tmp_path / "bolt"))
    measured(tmp_path, tmp_path / "out", ("bolt",), seeds=1)
    methods, anew = METHODS, ["patchcore", "padim"]
    if change == "settings":
        methods, anew = entries(("patchcore", "padim"), {}, SHARED | {"batch_size": 3}), anew  # seconds hang on it
    elif change == "files":
        os.utime(data / "train/good/000.png", ns=(1, 1))
    elif change == "weights":
        monkeypatch.setattr(FeatureSource, "fingerprint", lambda _: "others")
    elif change == "damage":
        file = tmp_path / "out/cells/bolt/padim-0.json"
        file.write_text(file.read_text().replace('"train": 3', '"train": "3"'))
        anew = ["padim"]
    elif change == "threads":
        monkeypatch.setattr(comparison, "get_num_threads", lambda: 99)
    else:
        monkeypatch.setattr("patchcore_fast.__version__", "99")
    started.clear()
    found = measured(tmp_path, tmp_path / "out", ("bolt",), methods, 1)
    assert [method for _, method, _ in asked(started)] == anew and all(each.error is None for each in found)


def test_one_that_fails_is_told_and_tried_again(
    root: Path, tmp_path: Path, started: list, fake: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(Fake):
        def fit(self, images: Any, on_error: str) -> None:
            raise ValueError(f"{images.root}/train: a loss\nthat is not finite")

    fake(lambda method, settings: (Failing if method == "padim" else Fake)(method, settings))
    found = measured(root, tmp_path / "out", seeds=1)
    said = [each.error for each in found]
    assert said == [None, "train: a loss that is not finite"] * 2
    assert "Traceback" in capsys.readouterr().err  # which start() keeps for -v
    lines = {(line.set, line.method): line for line in lines_of([each.cell for each in found], found)}
    assert lines["nut", "padim"].errors == ["train: a loss that is not finite"] and not lines["nut", "padim"].values
    fake(Fake)
    started.clear()
    assert all(each.error is None for each in measured(root, tmp_path / "out", seeds=1))
    assert asked(started) == [("bolt", "padim", 0), ("nut", "padim", 0)]


def test_a_set_without_test_images_starts_nothing(
    root: Path, tmp_path: Path, started: list, fake: Callable[[Any], None]
) -> None:
    shutil.copytree(root, tmp_path / "root")
    shutil.rmtree(tmp_path / "root/bolt/test")
    found = measured(tmp_path / "root", tmp_path / "out", seeds=1)
    assert [each.error for each in found] == ["no test images"] * 2 + [None] * 2
    assert [name for name, *_ in asked(started)] == ["nut", "nut"]


def test_what_was_run_is_said(
    root: Path, tmp_path: Path, started: list, fake: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "unreadable", True)
    found = measured(root, tmp_path / "out", methods=entries(("patchcore", "simplenet"), {}, SHARED))
    text = "\n".join(notes([each.cell for each in found], found))
    said = ("seeds 0, 1 on all", "after their last epoch", "bolt: 3 training images, 4 test images, 2 of",
            "simplenet: made up", "1 files could not be used: train/good/000.png", "Measured on cpu with ")  # fmt: skip
    for words in said:
        assert words in text


def test_a_process_of_its_own(tmp_path: Path) -> None:
    job = {"folder": str(tmp_path / "gone"), "method": "patchcore", "settings": {"selection": {"seed": 0}},
           "made": {"a": 1}, "file": str(tmp_path / "cell.json"), "parent": os.getpid()}  # fmt: skip
    assert start(job) == ""  # the reason is in the record
    found = read_record(tmp_path / "cell.json", {"a": 1})
    assert found is not None and "no such folder" in found["error"]
    assert read_record(tmp_path / "cell.json", {"a": 2}) is None


def test_any_backbone_of_ours_has_a_fingerprint() -> None:
    shared = {"backbone": "vig_ti", "layers": (1,), "weights": "random", "image_size": 224}
    found = [
        comparison._Weights().of(entry.seeded(seed)) for seed in (0, 1) for entry in entries(("padim",), {}, shared)
    ]
    assert len(set(found)) == 2 and all(found)


def test_how_a_process_ended() -> None:
    assert comparison._ending(0, "warning") == ""
    assert comparison._ending(-9, "") == "ended by SIGKILL: the machine may have run out of memory"
    assert comparison._ending(-11, "x") == "ended by SIGSEGV"
    assert comparison._ending(1, "Traceback\n  ImportError: no torch\n\n") == "ImportError: no torch"
    assert comparison._ending(3, "\n") == "ended with code 3"


@pytest.mark.thorough
def test_killed_and_run_again_it_gives_the_same_table(root: Path, tmp_path: Path) -> None:
    typed = ["compare", str(root), "--methods", "patchcore", "--seeds", "1", "--output"]
    for name, value in SHARED.items():
        said = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if name != "output":
            typed = [*typed[:-1], f"--{name.replace('_', '-')}", said, typed[-1]]
    command = [sys.executable, "-m", "patchcore_fast", *typed]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert subprocess.run([*command, str(whole)], stdout=subprocess.DEVNULL).returncode == 0
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first, deadline = killed / "cells/bolt/patchcore-0.json", time.monotonic() + 300
    while not first.exists():
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it was killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    kept = first.read_bytes()
    assert not (killed / "cells/nut").exists()
    assert subprocess.run([*command, str(killed)], stdout=subprocess.DEVNULL).returncode == 0
    assert first.read_bytes() == kept and same(whole) == same(killed)


def same(folder: Path) -> list[dict[str, Any]]:
    """The cells without what is measured anew each time."""
    found = json.loads((folder / "results.json").read_text())["cells"]
    return [{name: value for name, value in cell.items() if name not in (*COSTS, "train_cpu_s")} for cell in found]


def test_the_place_of_a_cell_is_its_own() -> None:
    assert Cell("a", Path("a"), "patchcore", 1).said == "a, patchcore, seed 1"
