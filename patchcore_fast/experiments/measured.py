"""What a piece of work took: seconds, processor seconds, and the memory that it added at its peak."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Spent:
    """seconds : wall clock.  cpu_seconds : of all threads of this process.  memory : bytes above what was there before,
    at the peak; on a GPU its memory, else the resident one (Linux), None where the system does not tell.  before : what
    was there."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int | None = None
    before: int | None = None


@contextmanager
def measured(device: torch.device) -> Iterator[Spent]:
    """Fill in what the block took; see `Spent`."""
    spent = Spent()
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before: int | None = torch.cuda.memory_allocated(device)
    else:
        before = _resident_from_now()
    spent.before = before
    cpu, clock = time.process_time(), time.perf_counter()
    try:
        yield spent
    finally:
        if gpu:
            torch.cuda.synchronize(device)
        spent.seconds, spent.cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
        if before is not None:
            peak = torch.cuda.max_memory_allocated(device) if gpu else _status("VmHWM")
            spent.memory = None if peak is None else max(0, peak - before)


def _resident_from_now() -> int | None:
    """Bytes resident, after the system's record of the peak was set to them; None where that cannot be done."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        if not os.access("/proc/self/clear_refs", os.W_OK):
            return None
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
