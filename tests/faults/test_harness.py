"""The harness itself: it is large enough, and what it looks for it finds."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest

import patchcore_fast.cli
from patchcore_fast.files import atomic_write

from . import run
from .commands import BY_NAME, COMMANDS, Command
from .engine import Fault, run_cell
from .moments import Strike

SELECT = BY_NAME["select"]
DONE, FAILED = Fault("none", (0,)), Fault("fails", (2,))


def cells(module: ModuleType) -> int:
    """How many tests pytest makes of a module."""
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    marks = [[m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"] for test in tests]
    return sum(math.prod(len(m.args[1]) for m in of_test) for of_test in marks)


def test_there_are_enough_cells() -> None:
    names = [path.stem for path in Path(__file__).parent.glob("test_*.py") if path.stem != "test_harness"]
    assert sum(cells(importlib.import_module(f"{__package__}.{name}")) for name in names) >= 300


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_without_a_fault(root: Path, no_drawing: None, command: Command) -> None:
    """Every command works in the template, and meets the moments that the table claims."""
    met = Strike("", 0, None)
    run_cell(root, command, Fault("none", (0,), during=lambda *_: met.active(), old=False, again=False))
    assert set(command.moments) <= set(met.seen)


def half(argv: list[str]) -> int:
    whole = b"\x93NUMPY\x01\0" + bytes(10)
    Path("made.npy").write_bytes(whole)
    return 0


def half_and_fails(argv: list[str]) -> int:
    half(argv)
    print("patchcore-fast: error: made.npy: no", file=sys.stderr)
    return 2


def good(argv: list[str]) -> int:
    with atomic_write("made.npy") as f:
        f.write(b"")
        np.save(f, np.ones((2, 2)))
    return 0


def litters(argv: list[str]) -> int:
    Path(".made.npy.0123456789ab.part").write_bytes(b"x")
    return good(argv)


def eats_input(argv: list[str]) -> int:
    Path("bank.safetensors").unlink()
    return good(argv)


def touches_input(argv: list[str]) -> int:
    Path("data/train/good/a.png").chmod(0o600)
    return good(argv)


def replaces_link(argv: list[str]) -> int:
    os.unlink("made.npy")
    return good(argv)


def leaves_child(argv: list[str]) -> int:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    return good(argv)


def two_lines(argv: list[str]) -> int:
    print("patchcore-fast: error: one\ntwo", file=sys.stderr)
    return 2


def crashes(argv: list[str]) -> int:
    print("Traceback (most recent call last): ...", file=sys.stderr)
    return 2


def fails_only_once(argv: list[str]) -> int:
    if Path("tmp/failed").exists():
        return 1
    return good(argv)


def hangs(argv: list[str]) -> int:
    time.sleep(30)
    return 0


def link(root: Path, command: Command) -> None:
    (root / "made.npy").symlink_to("tmp")


CAUGHT: dict[str, tuple[Callable[[list[str]], int], Fault, str]] = {
    "half a file": (half, DONE, "not whole"), "half a file over an older one": (half_and_fails, FAILED, "not whole"),
    "litter": (litters, DONE, "left behind"), "an input gone": (eats_input, DONE, "is no output"),
    "an input's mode": (touches_input, DONE, "is no output"),
    "a link replaced": (replaces_link, Fault("link", (0,), prepare=link, old=False), "was a link"),
    "a child": (leaves_child, DONE, "processes left"), "two lines": (two_lines, FAILED, "one.*two"),
    "a traceback": (crashes, FAILED, "Traceback"), "another exit code": (good, FAILED, "exit code 0"),
    "a hang": (hangs, DONE, "no end"),
    "a fault that is not met": (good, Fault("f", (0,), during=lambda *_: Strike("decode", 1, None).active()),
                                "never met"),
    "a later failure": (fails_only_once, Fault("f", (0,), mend=lambda r, _: (r / "tmp/failed").touch()),
                        "a later run failed"),
}  # fmt: skip


@pytest.mark.parametrize("what", CAUGHT)
def test_a_broken_command_is_caught(root: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main, fault, message = CAUGHT[what]
    monkeypatch.setattr(patchcore_fast.cli, "main", main)
    if main is hangs:
        monkeypatch.setattr(run, "LIMIT", 0.5)
    try:
        with pytest.raises(AssertionError, match=message):
            run_cell(root, SELECT, fault)
    finally:
        for child in psutil.Process().children():
            if "time.sleep(20)" in child.cmdline():
                child.kill()
                child.wait()


def test_a_sound_command_passes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchcore_fast.cli, "main", good)
    run_cell(root, SELECT, DONE)
