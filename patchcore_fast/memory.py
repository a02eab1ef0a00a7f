"""How much memory there is to take, within all limits that Linux may set."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that this process could take now: of the machine, of its containers, of its own limit (ulimit -v)."""
    return max(0, min(_limits()))


class PeakMemory:
    """Watches the resident memory of this process while it is entered; `peak` is the largest number of bytes seen.

    The kernel's own high-water mark counts from the start of the process, and is exact where the block raises it.
    Elsewhere a thread looks every few milliseconds and may miss what is shorter. 0 where the system does not tell.
    """

    _EVERY = 0.005

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._highest = _field("/proc/self/status", "VmHWM:") or 0
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        highest = _field("/proc/self/status", "VmHWM:") or 0
        if highest > self._highest:
            self.peak = max(self.peak, highest * 1024)

    def _watch(self) -> None:
        while not self._over.wait(self._EVERY):
            self._look()

    def _look(self) -> None:
        try:
            with open("/proc/self/statm", "rb") as f:
                self.peak = max(self.peak, int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        except (OSError, ValueError, IndexError):
            pass


def _limits() -> Iterator[int]:
    yield sys.maxsize
    if (machine := _field("/proc/meminfo", "MemAvailable:")) is not None:
        yield machine * 1024
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        groups = []
    for _, controllers, path in groups:
        if not controllers:  # version 2
            yield from _groups(CGROUPS, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _groups(CGROUPS / "memory", path, *names)
    try:
        import resource
    except ImportError:  # not on this system
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and (used := _field("/proc/self/status", "VmSize:")) is not None:
        yield limit - used * 1024


def _groups(root: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    """What a control group and those around it leave; in a container the path may be that of the host."""
    inside = (root / path.strip("/")).resolve()
    for folder in (inside, *inside.parents):
        if not folder.is_relative_to(root):
            return
        try:
            most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        except (OSError, ValueError):
            continue
        if most.isdecimal():  # "max": none
            yield int(most) - used + (_field(folder / "memory.stat", cache) or 0)  # pages of files make room


def _field(path: str | os.PathLike[str], name: str) -> int | None:
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            for line in f:
                if line.startswith(name):
                    return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
