"""watch from the command line: what it says where, how it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.cli import main
from patchcore_fast.cli import watch as command
from patchcore_fast.cli.process import Terminated, postponed
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore

from ..evaluated import rows_of


def watched(bank: Path, folder: Path, out: Path, *more: str) -> int:
    return main(["watch", str(bank), str(folder), "--output", str(out), *more])


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def meanwhile(ready: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    """Do something in a thread once `ready`."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not ready() and time.monotonic() < end:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_once(bank: Path, weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert watched(bank, weave / "test", tmp_path / "new/out", "--once", "--settle", "0") == 0
    said = capsys.readouterr()
    assert len(lines_of(said.out)) == 6, "nothing but JSON on standard output"
    assert "Bank of" in said.err and "6 images, of these 0 unreadable; latency p50 " in said.err and "p99" in said.err
    assert main(["predict", str(bank), str(weave / "test"), "--output", str(tmp_path / "p")]) == 0
    capsys.readouterr()
    of_predict, ours = ({row["path"]: row for row in rows_of(tmp_path / p / "scores.csv")} for p in ("p", "new/out"))
    assert ours.keys() == of_predict.keys() and list(next(iter(ours.values()))) == list(next(iter(of_predict.values())))
    for path, row in ours.items():
        assert float(row["score"]) == pytest.approx(float(of_predict[path]["score"]), rel=1e-5)
        assert row["is_anomalous"] == of_predict[path]["is_anomalous"]
    assert watched(bank, weave / "test", tmp_path / "new/out", "--once") == 0
    assert capsys.readouterr().out == ""


def test_a_broken_file_is_exit_code_3(
    bank: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "test/good/000.png").write_bytes(b"no image")
    assert watched(bank, data / "test", tmp_path / "out", "--once", "--settle", "0", "--every", "2") == 3
    said = capsys.readouterr()
    assert sum(line["error"] is not None for line in lines_of(said.out)) == 1
    assert "1 of the files could not be used" in said.err and said.err.count("latency") >= 2
    assert watched(bank, data / "test", tmp_path / "out", "--once") == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_order(
    bank: Path, weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    table = tmp_path / "out/scores.csv"
    thread = meanwhile(table.exists, lambda: os.kill(os.getpid(), number))
    assert watched(bank, weave / "test", tmp_path / "out", "--poll", "0.2", "--settle", "0") == code
    thread.join()
    said = capsys.readouterr()
    assert len(lines_of(said.out)) == len(rows_of(table)) == (tmp_path / "out/journal.jsonl").read_text().count("index")
    assert "latency p50" in said.err and "goes on from what is done" in said.err


def test_a_page(bank: Path, weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[Any] = []
    err: list[str] = []

    def ready() -> bool:
        err.append(capsys.readouterr().err)
        return "page http" in "".join(err) and (tmp_path / "out/scores.csv").exists()

    def look() -> None:
        url = "".join(err).split("page ")[1].split()[0]
        end = time.monotonic() + 60
        while time.monotonic() < end and (not found or found[-1]["counts"]["images"] < 6):
            found.append(json.load(urllib.request.urlopen(f"{url}state", timeout=20)))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = meanwhile(ready, look)
    options = ["--poll", "0.2", "--settle", "0", "--page", "0", "--threshold", "0.5"]
    assert watched(bank, weave / "test", tmp_path / "out", *options) == 143
    thread.join()
    assert found[-1]["counts"]["images"] == 6 and found[-1]["threshold"] == 0.5
    assert all(image["heat"] for image in found[-1]["images"])


def test_without_a_threshold(bank: Path, weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [str(weave / "test"), str(tmp_path / "out"), "--once", "--settle", "0", "--image-score", "reweighted"]
    assert watched(bank, Path(args[0]), Path(args[1]), *args[2:]) == 2
    assert "has no threshold, so there are no verdicts: give --threshold, or --folders none" in capsys.readouterr().err
    assert watched(bank, Path(args[0]), Path(args[1]), *args[2:], "--folders", "none") == 0
    assert {line["is_anomalous"] for line in lines_of(capsys.readouterr().out)} == {None}
    assert watched(bank, Path(args[0]), Path(args[1]), *args[2:], "--folders", "none", "--heatmaps") == 2
    assert "or --folders none without --heatmaps" in capsys.readouterr().err
    assert MemoryBank.load(bank).threshold is not None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--poll", "0"], "--poll must be above 0, got 0"),
        (["--poll", "nan"], "--poll must be above 0, got nan"),
        (["--settle", "-1"], "--settle must be at least 0, got -1"),
        (["--every", "0"], "--every must be at least 1, got 0"),
        (["--page", "70000"], "--page must be a port from 0 to 65535, got 70000"),
        (["--output", "IN"], "is the folder of IN, give another one"),
        (["--page", "0", "--page-address", "203.0.113.7", "--once"], "nothing can listen at 203.0.113.7, port 0"),
    ],
)
def test_what_it_refuses(
    bank: Path, weave: Path, tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [str(weave / "test") if part == "IN" else part for part in more]
    assert watched(bank, weave / "test", tmp_path / "out", *more) == 2
    assert words in capsys.readouterr().err


def test_watchdog_is_wanted_for_events_alone(
    bank: Path, weave: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(module: str, what: str, extra: str) -> None:
        raise ImportError(f'{what}: pip install "patchcore_fast[{extra}]"')

    monkeypatch.setattr(command, "need", missing)
    assert watched(bank, weave / "test", tmp_path / "out") == 2
    assert 'needs watchdog (or --poll): pip install "patchcore_fast[watch]"' in capsys.readouterr().err
    assert watched(bank, weave / "test", tmp_path / "out", "--once", "--settle", "0") == 0


def test_a_signal_waits_for_the_end_of_the_block_and_a_second_does_not() -> None:
    before = signal.getsignal(signal.SIGTERM)
    steps = []
    with pytest.raises(Terminated) as found, postponed() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append(stopped())
    assert steps == [True] and found.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(KeyboardInterrupt) as second, postponed():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append(False)
    assert steps == [True] and type(second.value) is KeyboardInterrupt
    with postponed() as stopped:
        assert not stopped()


def test_an_exported_file(bank: Path, weave: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = tmp_path / "bank.pt2"
    assert main(["export", str(bank), "--output", str(exported)]) == 0
    capsys.readouterr()
    assert watched(exported, weave / "test", tmp_path / "out", "--once", "--settle", "0") == 0
    said = capsys.readouterr()
    wanted = {str(p.path): p for p in PatchCore.load(bank, progress=False).predict(weave / "test")}
    lines = {line["path"]: line for line in lines_of(said.out)}
    assert {path: line["score"] for path, line in lines.items()} == pytest.approx(
        {path: p.score for path, p in wanted.items()}, rel=1e-3
    )
    assert all(line["is_anomalous"] is wanted[path].is_anomalous for path, line in lines.items())
    assert "Exported in fp32" in said.err
    assert watched(exported, weave / "test", tmp_path / "out", "--once", "--image-score", "reweighted") == 2
    assert "is an exported file, which scores as it was exported" in capsys.readouterr().err


def test_images_are_not_put_where_they_come_from(bank: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "test/good").rename(data / "normal")
    there = sorted((data / "normal").iterdir())
    assert watched(bank, data / "normal", data, "--once", "--settle", "0", "--folders", "move") == 2
    assert "puts images where IN" in capsys.readouterr().err
    assert sorted((data / "normal").iterdir()) == there
