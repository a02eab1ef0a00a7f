"""Nothing N x N or N x M is allocated: peak resident memory, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import re, torch
torch.set_num_threads(2)
from patchcore_fast.kernels import k_center_greedy, knn
def peak():  # not ru_maxrss, which a process inherits from its parent
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
x = torch.randn({n}, {d})
k_center_greedy(x[:5000], 50); knn(x[:5000], x[:100], 2)
before = peak()
{call}
print(peak() - before)
"""
MB = 2**20
CASES = {
    # N x k would be 16 GB, N x N 1 TB.
    "k_center_greedy": (500_000, 16, "k_center_greedy(x, 8000)", 64 * 500_000 + 256 * MB),
    "knn": (200_000, 16, "knn(x, x[:20000], 5)", 200_000 * 5 * 12 + 256 * MB),
}


@pytest.mark.parametrize("n, d, call, limit", CASES.values(), ids=list(CASES))
def test_extra_memory(n, d, call, limit):
    script = SCRIPT.format(n=n, d=d, call=call)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 2**20 < int(out.stdout) <= limit
