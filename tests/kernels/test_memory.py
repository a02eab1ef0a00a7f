"""Nothing N x N or N x M is allocated: peak resident memory, measured in a process of its own."""

import pytest

from ..programs import run
from .engines import BACKENDS

SCRIPT = """
import re, torch
torch.set_num_threads(2)
from patchcore_fast.kernels import k_center_greedy, knn
def peak():  # not ru_maxrss, which is the server's after a fork
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
x = torch.randn({n}, {d}, dtype=torch.{dtype})
k_center_greedy(x[:5000], 50, backend="{backend}"); knn(x[:5000], x[:100], 2, backend="{backend}")
before = peak()
{call}
print(peak() - before)
"""
MB = 2**20
# N x k would be 0.5 GB and more, N x M 4 GB. What is held grows with k; the results are 20 bytes a neighbour.
CASES = {
    "k-center": (250_000, 16, "float32", "k_center_greedy(x, 500, backend={0!r})", 64 * 250_000),
    "k-center of wide rows": (300_000, 128, "float32", "k_center_greedy(x, 1000, backend={0!r})", 64 * 300_000),
    "k-center of float16": (300_000, 128, "float16", "k_center_greedy(x, 1000, backend={0!r})", 64 * 300_000),
    "k-NN": (200_000, 16, "float32", "knn(x, x[:5000], 5, backend={0!r})", 200_000 * 5 * 12),
    "k-NN of large k": (20_000, 16, "float32", "knn(x, x, 200, backend={0!r})", 20_000 * 200 * 20),
}
RUNS = [
    pytest.param(backend, name, marks=[pytest.mark.thorough] if (backend, name) == ("torch", "k-NN") else [])
    for name in CASES
    for backend in BACKENDS
    if backend == "native" or name in ("k-center", "k-NN")
]


@pytest.mark.parametrize("backend, name", RUNS)
def test_extra_memory(backend, name):
    n, d, dtype, call, grows = CASES[name]
    limit = grows + 256 * MB
    script = SCRIPT.format(n=n, d=d, dtype=dtype, backend=backend, call=call.format(backend))
    done = run(script)
    assert done.returncode == 0, done.stderr
    extra = int(done.stdout)
    print(f"{name}, {backend}: {extra / MB:.0f} MB of {limit / MB:.0f}")
    assert 2**20 < extra <= limit
