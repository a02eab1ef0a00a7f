"""Killed: SIGTERM and SIGINT end the program with its own clean-up, after SIGKILL the next run cleans up."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .commands import BY_NAME, Command, replaced
from .engine import Fault, run_cell
from .zygote import Zygote

ENDED = (143, -signal.SIGTERM)  # a shell shows both as 143
KILLED = (
    (signal.SIGTERM, ENDED, ("create", "flush", "rename", "network")),
    (signal.SIGINT, (130,), ("flush",)),
    (signal.SIGKILL, (-signal.SIGKILL,), ("create", "flush", "rename")),
)


def killed(number: int, codes: tuple[int, ...], moment: str) -> Fault:
    """The program sends the signal to itself at a moment."""
    return Fault(f"{signal.Signals(number).name}-{moment}", codes, litter=number == signal.SIGKILL,
                 child={"strike": {"moment": moment, "number": 1, "signal": int(number)}})  # fmt: skip


CELLS = [
    (BY_NAME[name], killed(number, codes, moment))
    for name in ("fit", "predict", "evaluate-json", "report", "select", "select-indices", "threshold")
    for number, codes, moments in KILLED
    for moment in moments
    if moment in BY_NAME[name].moments
]


@pytest.mark.parametrize(("command", "fault"), CELLS, ids=[f"{c.name}-{f.name}" for c, f in CELLS])
def test_at_a_moment(root: Path, zygote: Zygote, no_drawing: None, command: Command, fault: Fault) -> None:
    run_cell(root, command, fault, zygote)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize("delay", [0.03, 0.12, 0.3])
@pytest.mark.parametrize("name", ["predict", "evaluate"])
def test_at_any_time(
    root: Path, zygote: Zygote, no_drawing: None, name: str, delay: float, number: signal.Signals
) -> None:
    codes = (0, -signal.SIGKILL) if number == signal.SIGKILL else (0, *ENDED)  # 0: it was faster
    fault = Fault(
        "any", codes, litter=number == signal.SIGKILL, child={"kill": (delay, int(number))}, again=delay < 0.1
    )
    run_cell(root, BY_NAME[name], fault, zygote)


MEMORY = {"limits": {"RLIMIT_AS": 250 << 20}}  # beyond what the program has when the command begins


def huge_features(root: Path, dtype: str, rows: int) -> None:
    """[rows, 100] zeros in a file with holes, which take no room on the disk."""
    np.lib.format.open_memmap(root / "f.npy", "w+", np.dtype(dtype), (rows, 100)).flush()


def huge_image(root: Path, command: Command) -> None:
    Image.new("RGB", (9400, 9400)).save(root / "data/test/good/huge.png")


TIGHT = {
    "select-map": ("select", Fault("map", (2,), ("out of memory", "f.npy"), again=False, child=MEMORY,
                                   prepare=lambda root, _: huge_features(root, "f4", 1_000_000))),
    "select-copy": ("select", Fault("copy", (2,), ("out of memory",), again=False, child=MEMORY,
                                    prepare=lambda root, _: huge_features(root, "u1", 1_000_000))),
    "fit-image-size": ("fit", Fault("size", (2,), ("out of memory",), child=MEMORY, again=False,
                                    argv=lambda c: replaced(c, "32", "6000"))),
    "predict-huge-image": ("predict", Fault("image", (2, 3), ("out of memory", "huge.png"), child=MEMORY, again=False,
                                            prepare=huge_image)),
    "check-huge-image": ("check", Fault("image", (0, 2, 3), child=MEMORY, again=False, prepare=huge_image)),
}  # fmt: skip


@pytest.mark.parametrize("cell", TIGHT)
def test_little_memory(root: Path, zygote: Zygote, cell: str) -> None:
    name, fault = TIGHT[cell]
    run_cell(root, BY_NAME[name], fault, zygote)
