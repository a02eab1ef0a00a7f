"""Resident memory of a process on Linux: now, and its peak since a moment of one's choice."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from contextlib import suppress
from pathlib import Path

GIB = 1 << 30
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int | str = "self") -> int:
    """Bytes resident now; 0 for a process that has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def peak(pid: int | str = "self") -> int:
    """The largest number of bytes resident since `forget_peak`, or since the start of the process; 0 if it has ended.

    VmHWM, not ru_maxrss: a process inherits the latter from its parent.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> None:
    """Give what the allocator keeps back to the system and start the peak anew at what is resident."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # sandboxed kernels have no such file: peaks then count from the start of the process
        Path("/proc/self/clear_refs").write_text("5")


def die_with_parent() -> None:
    """A worker whose parent is killed must not compute on (prctl PR_SET_PDEATHSIG)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, 9)


def check_gb(gb: float | None) -> int | None:
    """The option --memory-gb in bytes (2^30 each)."""
    if gb is None:
        return None
    if not 0.1 <= gb <= 1e5:
        raise SystemExit(f"--memory-gb: between 0.1 and 100000 is wanted, got {gb}")
    return int(gb * GIB)
