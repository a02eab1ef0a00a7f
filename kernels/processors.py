"""How many processors this process may keep busy: what its affinity and its container leave of the machine's.

torch counts the machine's processors. In a container that may use 2 of 64, threads beyond the second wait for each
other's turns, and anything that meets at a barrier (LAPACK, OpenMP) becomes many times slower.
"""

from __future__ import annotations

import math
import os
import platform
import time
from pathlib import Path, PurePosixPath

_SECONDS = 10.0  # a quota may be changed while we run, but need not be read at every call
_read: tuple[float, float] | None = None  # when, and what was found


def processor_name() -> str:
    """The model of the CPU, as /proc/cpuinfo says it; its architecture where that says none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in named if name), platform.processor() or platform.machine())


def usable_processors() -> int:
    """Processors in this process's affinity, or the quota of its control group, rounded up, where that is less."""
    return max(1, math.ceil(min(_affinity(), _recent_quota())))


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on every system
        return os.cpu_count() or 1


def _recent_quota() -> float:
    global _read
    now = time.monotonic()
    if _read is None or not 0 <= now - _read[0] < _SECONDS:
        _read = now, cgroup_quota()
    return _read[1]


def cgroup_quota(root: str | os.PathLike[str] = "/") -> float:
    """Processors that the control groups of this process may use, the least of all levels; inf without a limit.

    Version 2 has `cpu.max`, version 1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`, in the process's own group and in
    each above it that can be seen; either may be mounted, or both (Linux: Documentation/admin-guide/cgroup-v2.rst,
    cgroup-v1/cgroups.rst; the mounts: proc_pid_mountinfo(5)). root : where /proc and /sys are, for tests.
    """
    base, least = Path(root), math.inf
    try:
        groups = _groups((base / "proc/self/cgroup").read_text(errors="surrogateescape"))
        mounts = (base / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return math.inf
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup" and "cpu" not in kind[2].split(","):
            continue
        group = groups.get("" if kind[0] == "cgroup2" else "cpu")
        if group is not None:
            least = min(least, _least(base, _plain(fields[3]), _plain(fields[4]), group, kind[0] == "cgroup2"))
    return least


def _groups(text: str) -> dict[str, str]:
    """Controller -> path of this process's group; the controller of version 2 is ""."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _plain(path: str) -> str:
    """mountinfo writes blanks and backslashes as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def _least(base: Path, mounted: str, at: str, group: str, unified: bool) -> float:
    """The least quota from a group up to the root of the mount that shows it; `mounted` is that root's own path."""
    try:
        inside = PurePosixPath(group).relative_to(mounted)
    except ValueError:  # the mount shows another part of the tree: a container's own group is its root
        inside = PurePosixPath()
    top = base / at.lstrip("/")
    levels = [top.joinpath(*inside.parts[:i]) for i in range(len(inside.parts) + 1) if ".." not in inside.parts[:i]]
    return min((_quota(folder, unified) for folder in levels), default=math.inf)


def _quota(folder: Path, unified: bool) -> float:
    try:
        if unified:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        share = float(quota) / float(period)  # "max", -1: none
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
    return share if share > 0 else math.inf
