"""A watch that is killed and started again while files come in bursts, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Told:
    """What all runs of a watch left behind.

    lines : of standard output, whole ones.  code : of the last run.  said : its standard error.
    memory : resident bytes, each with the number of lines that were out then, of the last run.
    """

    lines: list[dict[str, Any]]
    code: int
    said: str
    memory: list[tuple[int, int]] = field(default_factory=list)


def drop(images: list[bytes], folder: Path, count: int, burst: int, pause: float, stop: threading.Event) -> None:
    """`count` files into `folder` in bursts: written in place, renamed in, and hard-linked in turn."""
    beside = folder.parent / "beside"
    beside.mkdir(exist_ok=True)
    for i in range(count):
        name, content = f"{i:05d}.png", images[i % len(images)]
        if i % 3 == 0:
            (folder / name).write_bytes(content)
        else:
            (beside / name).write_bytes(content)
            (os.rename if i % 3 == 1 else os.link)(beside / name, folder / name)
        if i % burst == burst - 1 and stop.wait(pause):
            return


def forked(argv: list[str], out: Path, err: Path) -> Callable[[], tuple[int, int | None]]:
    """Run a command in a fork of this process; a function that gives (its number, exit code or None)."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            for number, path in ((1, out), (2, err)):
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(fd, number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
            import torch

            from patchcore_fast.cli import main

            torch.set_num_threads(1)  # the threads of OpenMP did not come along
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            code = main(argv)
        finally:
            os._exit(code)
    ended: list[int] = []

    def state() -> tuple[int, int | None]:
        if not ended:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended.append(os.waitstatus_to_exitcode(status))
        return pid, ended[0] if ended else None

    return state


def started(argv: list[str], out: Path, err: Path) -> Callable[[], tuple[int, int | None]]:
    """As `forked`, of a process of its own."""
    with out.open("ab") as o, err.open("ab") as e:
        process = subprocess.Popen([sys.executable, "-m", "patchcore_fast", *argv], stdout=o, stderr=e)
    return lambda: (process.pid, process.poll())


def killed_and_started(
    argv: list[str], root: Path, count: int, kills: list[int], run: Callable[..., Any], seconds: float
) -> Told:
    """Run a watch, SIGKILL it once so many lines are out as `kills` says, start it again, and end it by SIGTERM.

    AssertionError: it does not get through in `seconds`, or ends by itself.
    """
    end = time.monotonic() + seconds
    out, memory = root / "said.jsonl", list[tuple[int, int]]()
    for turn, due in enumerate([*kills, count]):
        err, memory = root / f"err{turn}.txt", []
        state, last = run(argv, out, err), due == count
        pid = state()[0]
        try:
            while (lines := _lines(out)) < due:
                assert state()[1] is None, err.read_text()
                assert time.monotonic() < end, f"{lines} lines of {due}"
                with suppress(psutil.Error):
                    memory.append((lines, psutil.Process(pid).memory_info().rss))
                time.sleep(0.02 if count < 2000 else 0.2)
        finally:
            if state()[1] is None:
                os.kill(pid, signal.SIGTERM if last and sys.exc_info()[0] is None else signal.SIGKILL)
            while (code := state()[1]) is None:
                time.sleep(0.01)
        assert last or code == -signal.SIGKILL
    return Told([json.loads(line) for line in out.read_text().splitlines()], code, err.read_text(), memory)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def check(told: Told, output: Path, names: set[str]) -> None:
    """Each file once in journal and table, no line lost, each image in one folder."""
    records = [json.loads(line) for line in (output / "journal.jsonl").read_text().splitlines()[1:]]
    entries = [r for r in records if "index" in r]
    assert [e["index"] for e in entries] == [*range(1, len(names) + 1)]
    assert Counter(e["name"] for e in entries) == Counter(names), "each once"
    rows = (output / "scores.csv").read_text().splitlines()[1:]
    assert Counter(row.split(",")[0].rsplit("/", 1)[1] for row in rows) == Counter(names)
    said = {line["index"]: line for line in told.lines}
    assert {i: Path(line["path"]).name for i, line in said.items()} == {e["index"]: e["name"] for e in entries}
    assert all(said[e["index"]]["score"] == e["score"] for e in entries)
    first = Counter(line["index"] for line in told.lines if not line.get("again"))
    assert not first or max(first.values()) == 1, "what is said twice says so"
    placed = [p.name for kind in ("normal", "anomalous", "unreadable") for p in (output / kind).rglob("*.png")]
    assert Counter(placed) == Counter(names)


def copied(weave: Path) -> list[bytes]:
    """The test images of a set."""
    return [p.read_bytes() for p in sorted((weave / "test").rglob("*.png"))]


def run_all(bank: Path, weave: Path, root: Path, count: int, kills: list[int], run: Any, seconds: float,
            *more: str, burst: int, pause: float) -> tuple[Told, Path]:  # fmt: skip
    """Files come from a thread while the watch runs; the outcome, and its output folder."""
    folder, output = root / "in", root / "out"
    folder.mkdir()
    argv = ["watch", str(bank), str(folder), "--output", str(output), *more]
    stop = threading.Event()
    writer = threading.Thread(target=drop, args=(copied(weave), folder, count, burst, pause, stop))
    writer.start()
    try:
        told = killed_and_started(argv, root, count, kills, run, seconds)
    finally:
        stop.set()
        writer.join()
        shutil.rmtree(root / "beside", ignore_errors=True)
    return told, output
