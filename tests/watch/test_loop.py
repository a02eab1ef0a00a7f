"""The loop: what each file becomes, and what a run that was cut off at any step leaves for the next."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcore_fast.errors import DataError
from patchcore_fast.methods import make_method
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.report.scores_csv import COLUMNS
from patchcore_fast.watch import Options, Watch, loop

OLD = time.time() - 3600
CONFIG = PatchCoreConfig(backbone="test_efficientnet", layers=(1, 2), weights="random", image_size=64)


@pytest.fixture(scope="module")
def model(place: Path) -> PatchCore:
    found = PatchCore.load(place / "bank.safetensors", batch_size=4, progress=False)
    assert found.threshold is not None
    return found


@pytest.fixture
def options(weave: Path, tmp_path: Path) -> Options:
    """A folder with three normal and three anomalous images."""
    (tmp_path / "out").mkdir()
    for path in sorted((weave / "test").rglob("*.png")):
        copy = tmp_path / "in" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        os.utime(copy, (OLD, OLD))
    return Options(tmp_path / "in", tmp_path / "out", once=True, settle=0.02)


class Said:
    """What a watch said; `fail` ends it before it says anything."""

    def __init__(self, fail: type[BaseException] | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.fail = fail

    def emit(self, lines: list[dict[str, Any]]) -> None:
        if self.fail is not None:
            raise self.fail
        self.lines += json.loads(json.dumps(lines, allow_nan=False))


def run(model: Any, options: Options, said: Said | None = None, normal: Any = (), **more: Any) -> tuple[Watch, Said]:
    said = said or Said()
    watch = Watch(model, options, normal, emit=said.emit, warn=said.warnings.append,
                  **({"stopped": lambda: False} | more))  # fmt: skip
    try:
        for _ in watch.run():
            pass
    finally:
        watch.close()
    return watch, said


def table(options: Options) -> list[dict[str, str]]:
    with (options.output / "scores.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def journal(options: Options) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (options.output / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if "index" in line]


def test_lines_table_and_folders(model: PatchCore, options: Options) -> None:
    watch, said = run(model, options, normal=[0.1] * 40)
    wanted = {p.path: p for p in model.predict(options.folder)}
    assert sorted(line["path"] for line in said.lines) == sorted(map(str, wanted))
    for line, row in zip(said.lines, table(options), strict=True):
        prediction = wanted[Path(line["path"])]
        assert line["score"] == pytest.approx(prediction.score, rel=1e-5) and line["threshold"] == model.threshold
        assert line["is_anomalous"] is prediction.is_anomalous is ("/spot/" in line["path"]) and line["error"] is None
        kind = "anomalous" if prediction.is_anomalous else "normal"
        assert os.path.samefile(line["file"], line["path"]) and f"out/{kind}/" in line["file"]
        assert set(line["seconds"]) == {"wait", "read", "score", "draw", "write"}
        assert all(0 <= v <= line["latency"] < 60 for v in line["seconds"].values())
        assert (
            tuple(row) == COLUMNS
            and row["path"] == line["path"]
            and np.float32(row["score"]) == np.float32(line["score"])
        )
        assert (row["is_anomalous"], row["label"], row["heatmap"], row["error"]) == (
            str(prediction.is_anomalous),
            "",
            "",
            "",
        )
    assert [line["index"] for line in said.lines] == [1, 2, 3, 4, 5, 6]
    assert (watch.scored, watch.unread, watch.problems, said.warnings) == (6, 0, 0, [])
    assert watch.recent.counts == {"normal": 3, "anomalous": 3} and set(watch.recent.latency()) == {"p50", "p95", "p99"}
    again, more = run(model, options)
    assert more.lines == [] and again.scored == 0 and again.recent.counts == watch.recent.counts


def test_another_method(options: Options, weave: Path) -> None:
    method = make_method("subspace", CONFIG, progress=False).fit(weave)
    _, said = run(method, replace(options, way="none"))
    scores = {str(p.path): p.score for p in method.predict(options.folder)}
    assert {line["path"]: line["score"] for line in said.lines} == pytest.approx(scores, rel=1e-4)
    assert not (options.output / "normal").exists() and all(line["file"] == line["path"] for line in said.lines)


def test_heat_maps_of_anomalous_images(model: PatchCore, options: Options) -> None:
    _, said = run(model, replace(options, heatmaps=True))
    for line, row in zip(said.lines, table(options), strict=True):
        assert bool(line["heatmap"]) == line["is_anomalous"] and row["heatmap"] == line["heatmap"]
        if line["heatmap"]:
            with Image.open(options.output / line["heatmap"]) as drawn, Image.open(line["path"]) as photo:
                assert drawn.size == photo.size
    assert len(list((options.output / "heatmaps").rglob("*.png"))) == 3


def test_a_picture_that_cannot_be_written_loses_no_score(model: PatchCore, options: Options) -> None:
    (options.output / "heatmaps").write_bytes(b"in the way")
    (options.output / "normal").write_bytes(b"in the way")
    watch, said = run(model, replace(options, heatmaps=True))
    assert len(said.lines) == 6 and watch.problems == 6 and len(said.warnings) == 6
    assert any("heat map of" in w for w in said.warnings) and all("the scores are complete" in w for w in said.warnings)
    assert [line["file"] == line["path"] for line in said.lines] == [not line["is_anomalous"] for line in said.lines]


def test_a_broken_file_is_read_twice_and_then_said(model: PatchCore, options: Options) -> None:
    bad = options.folder / "bad.png"
    bad.write_bytes(b"no image")
    os.utime(bad, (OLD, OLD))
    watch, said = run(model, options)
    assert len(said.lines) == 7 and watch.unread == 1
    (line,) = (line for line in said.lines if line["error"])
    assert line["path"] == str(bad) and "bad.png: cannot be read as an image" in line["error"]
    assert line["score"] is line["is_anomalous"] is None
    assert (options.output / "unreadable/bad.png").read_bytes() == b"no image"
    (row,) = (row for row in table(options) if row["error"])
    assert row["score"] == row["is_anomalous"] == "" and row["error"] == line["error"]
    assert run(model, options)[1].lines == [], "it does not come again until it is another"
    shutil.copy(options.folder / "good/000.png", bad)
    _, said = run(model, options)
    assert [(line["path"], line["error"], line["is_anomalous"]) for line in said.lines] == [(str(bad), None, False)]


def test_a_file_that_becomes_whole_between_two_readings(model: PatchCore, options: Options) -> None:
    half, whole = options.folder / "half.png", (options.folder / "good/000.png").read_bytes()
    half.write_bytes(whole[:200])
    os.utime(half, (OLD, OLD))
    predict = model.iter_predict

    def mend(*args: Any, **more: Any) -> Any:
        yield from predict(*args, **more)
        if half.stat().st_size == 200:
            half.write_bytes(whole)

    model.iter_predict = mend  # type: ignore[method-assign]
    try:
        watch, said = run(model, options)
    finally:
        del model.iter_predict
    assert watch.unread == 0 and len(said.lines) == 7 and journal(options)[-1]["size"] == len(whole)


def test_a_file_that_is_gone(model: PatchCore, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    take = loop.Source.take
    gone = options.folder / "good/001.png"

    def late(self: Any, *args: Any) -> Any:
        batch = take(self, *args)
        if any(arrival.path == gone for arrival in batch):
            gone.unlink()
        return batch

    monkeypatch.setattr(loop.Source, "take", late)
    watch, said = run(model, replace(options))
    assert len(said.lines) == 5 and watch.gone == 1 and watch.unread == 0
    assert said.warnings == [f"{gone}: went before it could be read"]


def test_one_image_for_which_memory_runs_out(
    model: PatchCore, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = PatchCore.iter_predict

    def tight(self: PatchCore, loader: Any, **more: Any) -> Any:
        if any(r.path.name == "001.png" and r.path.parent.name == "good" for r in loader.dataset.records):
            raise MemoryError
        return predict(self, loader, **more)

    monkeypatch.setattr(PatchCore, "iter_predict", tight)
    watch, said = run(model, options)
    assert watch.unread == 1 and len(said.lines) == 6
    (line,) = (line for line in said.lines if line["error"])
    assert line["error"] == f"{options.folder / 'good/001.png'}: out of memory"
    monkeypatch.setattr(PatchCore, "iter_predict", lambda *_, **__: 1 / 0)
    (options.folder / "new.png").write_bytes(b"")
    with pytest.raises(ZeroDivisionError):
        run(model, options)


def test_a_score_that_is_no_number(model: PatchCore, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = PatchCore.iter_predict
    monkeypatch.setattr(
        PatchCore, "iter_predict", lambda *a, **k: (replace(p, score=math.nan) for p in predict(*a, **k))
    )
    watch, said = run(model, options)
    assert watch.unread == 6 and {line["is_anomalous"] for line in said.lines} == {None}
    assert all("its score is nan" in line["error"] for line in said.lines)


STEPS: dict[str, tuple[str, bool]] = {
    "before it is written": ("patchcore_fast.watch.journal.Journal.add", False),
    "before the table": ("patchcore_fast.watch.loop.Watch._new_table", True),
    "before the folders": ("patchcore_fast.watch.placing.Placing.place", True),
    "before it is said": ("emit", True),
    "before that is noted": ("patchcore_fast.watch.journal.Journal.mark_said", True),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", ["link", "move"])
def test_cut_off(model: PatchCore, options: Options, step: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was done last: nothing is lost, and what is said twice says so."""
    place, written = STEPS[step]
    options = replace(options, way=way)

    class Killed(BaseException):
        """No error that anything catches."""

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    said = Said(Killed if place == "emit" else None)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if place != "emit":
            patch.setattr(place, kill)
        run(model, options, said)
    assert len(journal(options)) == (4 if written else 0)
    said.fail = None
    run(model, options, said)
    assert sorted(e["name"] for e in journal(options)) == sorted(
        {f"{k}/00{i}.png" for k in ("good", "spot") for i in range(3)}
    )
    first = [line["index"] for line in said.lines if not line.get("again")]
    again = [line["index"] for line in said.lines if line.get("again")]
    assert sorted({*first, *again}) == [1, 2, 3, 4, 5, 6] and again == ([1, 2, 3, 4] if written else [])
    assert (len(first) == 6) == (not written or step == "before that is noted")
    assert len(table(options)) == 6
    placed = [p for kind in ("normal", "anomalous") for p in (options.output / kind).rglob("*.png")]
    assert len(placed) == 6 and sum(p.is_file() for p in options.folder.rglob("*.png")) == (0 if way == "move" else 6)


def test_signals_are_heard_between_batches(model: PatchCore, options: Options) -> None:
    said = Said()
    run(model, options, said, stopped=lambda: len(said.lines) >= 4)
    assert len(said.lines) == 4 == len(journal(options))


def test_an_older_table_is_replaced_and_another_folder_refused(
    model: PatchCore, options: Options, tmp_path: Path
) -> None:
    (options.output / "scores.csv").write_text("older\n")
    run(model, options)
    (options.output / "scores.csv").write_text("path,score\ncut off in the mid")
    (options.folder / "new.png").write_bytes((options.folder / "good/000.png").read_bytes())
    run(model, options)
    assert [row["path"].rsplit("/", 1)[1] for row in table(options)].count("new.png") == 1 and len(table(options)) == 7
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="is the journal of"):
        run(model, replace(options, folder=tmp_path / "other"))


def test_the_page_keeps_few_maps(model: PatchCore, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "HEAT_SIDE", 32)
    watch, _ = run(model, replace(options, page=True))
    cards = watch.recent.cards()
    assert [c.entry.index for c in cards] == [6, 5, 4, 3, 2, 1] and {c.heat.shape for c in cards} == {(32, 32)}  # type: ignore[union-attr]
    low, high = watch.recent.scale or (0, 0)
    hot = [float(np.max(c.heat)) > low + (high - low) / 2 for c in cards]  # type: ignore[arg-type]
    assert hot == [bool(c.entry.is_anomalous) for c in cards]
    assert watch.find(cards[0].entry).is_file()
