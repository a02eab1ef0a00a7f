"""The network between two hosts is cut: both sides end, and say what they know. Hosts are network namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from ..kernels.cases import gaussian

_TIMEOUT = 8  # seconds of the group
_NAMES = ("pcf-test-a", "pcf-test-b")
_HOSTS = ("10.213.77.1", "10.213.77.2")


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Two namespaces with a cable between them."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and iproute2")
    try:
        ip("netns", "add", _NAMES[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    try:
        ip("netns", "add", _NAMES[1])
        ip("link", "add", "pcf0", "netns", _NAMES[0], "type", "veth", "peer", "name", "pcf0", "netns", _NAMES[1])
        for name, host in zip(_NAMES, _HOSTS, strict=True):
            ip("-n", name, "addr", "add", f"{host}/30", "dev", "pcf0")
            ip("-n", name, "link", "set", "pcf0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield _NAMES
    finally:
        for name in _NAMES:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.thorough
def test_the_cable_is_pulled(hosts, tmp_path):
    np.save(tmp_path / "x.npy", gaussian(40_000, 128).numpy())
    program = (
        "import sys; from patchcore_fast.samplers import GreedyCoresetSampler as Greedy\n"
        "Greedy.checkpoint_seconds = 0.0\nfrom patchcore_fast.cli import main\nsys.exit(main())"
    )
    options = ["--ratio", "0.5", "--checkpoint", "c.npz", "--rank-timeout", str(_TIMEOUT)]
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", program, "select", "x.npy", "--output", f"o{rank}.npy",
             *options],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": _HOSTS[0], "MASTER_PORT": "29511",
                              "GLOO_SOCKET_IFNAME": "pcf0", "OMP_NUM_THREADS": "1"},
        )
        for rank, name in enumerate(hosts)
    ]  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "c.npz").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert all(process.poll() is None for process in processes)
        ip("-n", hosts[0], "link", "set", "pcf0", "down")
        cut = time.monotonic()
        said = [process.communicate(timeout=60)[1] for process in processes]
        lasted = time.monotonic() - cut
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2], said
    assert lasted < _TIMEOUT + 5 + 3, (lasted, said)  # the 3 for a loaded machine to end processes
    assert "rank 1 of 2 has died or cannot be reached" in said[0], said
    assert "other ranks of 2 no longer answer" in said[1], said
    assert not list(tmp_path.glob("o*.npy"))
