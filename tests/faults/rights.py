"""Real refusals for whoever runs the tests: root loses, for a while, the capability that lets it pass every check."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, see capget(2)
_BYPASS = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def _set(mask: int, on: int) -> int:
    """Switch capabilities of this thread; returns those that were effective among them."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(_VERSION, 0), (_Data * 2)()
    if libc.capget(ctypes.byref(header), data):
        raise OSError(ctypes.get_errno(), "capget")
    before = data[0].effective & mask
    data[0].effective = (data[0].effective & ~mask) | on
    if libc.capset(ctypes.byref(header), data):
        raise OSError(ctypes.get_errno(), "capset")
    return before


@contextmanager
def ordinary() -> Iterator[None]:
    """Permission bits count, also for root."""
    before = _set(_BYPASS, 0)
    try:
        yield
    finally:
        _set(_BYPASS, before)


@contextmanager
def locked(path: Path, mode: int) -> Iterator[None]:
    """`path` has `mode` inside the block, and permission bits count."""
    kept = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode)
    try:
        with ordinary():
            yield
    finally:
        path.chmod(kept)


def make_device(path: Path, minor: int) -> bool:
    """A memory device (3: null, 7: full) at `path`; False where the system allows none."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    except OSError:
        return False
    return True
