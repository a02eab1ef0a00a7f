"""How many processors there are for us, read from made-up control groups."""

import math
import os
from pathlib import Path

import pytest

from patchcore_fast.kernels import processors, surroundings
from patchcore_fast.kernels.processors import cgroup_quota, usable_processors

UNIFIED = "30 20 0:25 {root} {at} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
CPU = "31 20 0:26 {root} {at} rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "32 20 0:27 {root} {at} rw - cgroup cgroup rw,memory"


def machine(base, groups, mounts, files):
    """/proc and /sys of a process: its groups, its mounts as (template, root, where), files by path."""
    proc = base / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(groups)
    lines = ["22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"]
    lines += [template.format(root=root, at=at) for template, root, at in mounts]
    (proc / "mountinfo").write_text("\n".join(lines) + "\n")
    for path, text in files.items():
        file = Path(os.path.normpath(base / "sys/fs/cgroup" / path))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return base


V2, V1 = [(UNIFIED, "/", "/sys/fs/cgroup")], [(CPU, "/", "/sys/fs/cgroup/cpu")]
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"
# Files below /sys/fs/cgroup.
CASES = {
    "a container of version 2": ("0::/\n", V2, {"cpu.max": "200000 100000\n"}, 2.0),
    "no limit": ("0::/\n", V2, {"cpu.max": "max 100000\n"}, math.inf),
    "a part of one": ("0::/\n", V2, {"cpu.max": "50000 100000\n"}, 0.5),
    "the tightest is above": ("0::/a/b/c\n", V2, {"a/cpu.max": "150000 100000", "a/b/c/cpu.max": "400000 100000"}, 1.5),
    "the tightest is our own": ("0::/a/b\n", V2, {"a/cpu.max": "800000 100000", "a/b/cpu.max": "300000 100000"}, 3.0),
    "a group beside ours": ("0::/a\n", V2, {"b/cpu.max": "100000 100000"}, math.inf),
    "seen from a name space, group outside": (
        "0::/../other\n",
        V2,
        {"cpu.max": "200000 100000", "../other/cpu.max": "100000 100000"},
        2.0,
    ),
    "version 1": (
        "5:memory:/x\n4:cpuacct,cpu:/pod/one\n",
        [(MEMORY, "/", "/sys/fs/cgroup/memory"), *V1],
        {f"cpu/pod/one/{QUOTA}": "-1\n", f"cpu/pod/one/{PERIOD}": "100000\n"}
        | {f"cpu/pod/{QUOTA}": "250000\n", f"cpu/pod/{PERIOD}": "100000\n"},
        2.5,
    ),
    "version 1 in a container": (
        "4:cpu,cpuacct:/docker/abc\n",
        [(CPU, "/docker/abc", "/sys/fs/cgroup/cpu")],
        {f"cpu/{QUOTA}": "200000", f"cpu/{PERIOD}": "100000"},
        2.0,
    ),
    "both versions": (
        "4:cpu:/a\n0::/b\n",
        [*V1, (UNIFIED, "/", "/sys/fs/cgroup/unified")],
        {f"cpu/a/{QUOTA}": "400000", f"cpu/a/{PERIOD}": "100000", "unified/b/cpu.max": "300000 100000"},
        3.0,
    ),
    "a mount with a blank in its name": (
        "0::/\n",
        [(UNIFIED, "/", "/my\\040groups")],
        {"../../../my groups/cpu.max": "200000 100000"},
        2.0,
    ),
    "nonsense": ("x\n0::/\n", V2, {"cpu.max": "many"}, math.inf),
    "a period of zero": ("0::/\n", V2, {"cpu.max": "100000 0"}, math.inf),
    "no mount": ("0::/\n", [], {}, math.inf),
}


@pytest.mark.parametrize("name", CASES)
def test_quota_of_the_control_groups(name, tmp_path):
    groups, mounts, files, quota = CASES[name]
    assert cgroup_quota(machine(tmp_path, groups, mounts, files)) == quota


def test_no_proc(tmp_path):
    assert cgroup_quota(tmp_path) == math.inf


@pytest.mark.parametrize("affinity, quota, usable", [(8, math.inf, 8), (8, 1.5, 2), (2, 6.0, 2), (4, 0.2, 1)])
def test_the_less_of_affinity_and_quota(monkeypatch, affinity, quota, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(processors, "cgroup_quota", lambda: quota)
    monkeypatch.setattr(processors, "_read", None)
    assert usable_processors() == usable


def test_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(processors, "_read", (float("inf"), math.inf))
    monkeypatch.setattr(processors, "cgroup_quota", lambda: math.inf)
    assert usable_processors() == 3


@pytest.mark.parametrize("torch_threads, usable, engine", [(16, 2, 2), (1, 2, 1), (2, 16, 2)])
def test_an_engine_has_no_more_threads_than_processors(monkeypatch, threads, torch_threads, usable, engine):
    threads(torch_threads)
    monkeypatch.setattr(surroundings, "usable_processors", lambda: usable)
    assert surroundings.engine_threads() == engine
