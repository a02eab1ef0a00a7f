"""The run breaks off in the middle: Ctrl-C, no memory left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .commands import COMMANDS, FILE, Command
from .engine import Fault, run_cell
from .moments import Strike

pytestmark = pytest.mark.usefixtures("no_drawing")

# As torch says it on the processor; NumPy's own class is private, this is what it raises.
TORCH_TEXT = (
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "8000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def numpy_error() -> MemoryError:
    """What NumPy raises for an array that is too large."""
    try:
        np.empty((2**40, 2**10), np.float64)
    except MemoryError as error:
        return error
    raise AssertionError("an array of 8 PiB was made")


KINDS: dict[str, tuple[Callable[[], BaseException], tuple[int, ...], str]] = {
    "interrupt": (KeyboardInterrupt, (130,), ""),
    "memory": (MemoryError, (2,), "out of memory"),
    "torch-memory": (lambda: RuntimeError(TORCH_TEXT), (2,), "out of memory"),
    "cuda-memory": (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.45 GiB."), (2,),
                    "out of GPU memory|out of memory"),
    "numpy-memory": (numpy_error, (2,), "out of memory"),
    "system-memory": (lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), (2,), "memory"),
}  # fmt: skip


def breaks(moment: str, kind: str, again: bool, folder: bool) -> Fault:
    """Raised at the first such moment."""
    make, codes, says = KINDS[kind]

    def act(_: Any) -> None:
        raise make()

    if moment == "decode" and kind != "interrupt":
        codes = (2, 3)  # an image that is too large for this machine is one that cannot be used
    elif moment in FILE and folder and kind != "interrupt":
        codes = (2, 3)  # a picture that cannot be drawn is named at the end
    return Fault(f"{moment}-{kind}", codes, (says,) if says else (), again=again,
                 old=moment != "folder", during=lambda *_: Strike(moment, 1, act).active())  # fmt: skip


CELLS = [
    (command, breaks(moment, kind, again=not command.costly and kind == "memory", folder=command.folder))
    for command in COMMANDS
    for moment in command.moments
    for kind in KINDS
    if kind in ("interrupt", "memory") or (moment == "network" and not command.costly)
    if not command.costly or moment in ("network", "rename")
]


@pytest.mark.parametrize(("command", "fault"), CELLS, ids=[f"{c.name}-{f.name}" for c, f in CELLS])
def test_break(root: Path, command: Command, fault: Fault) -> None:
    run_cell(root, command, fault)
