"""How much memory there is to take, within all limits that Linux may set."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that this process could take now: of the machine, of its containers, of its own limit (ulimit -v)."""
    return max(0, min(_limits()))


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
