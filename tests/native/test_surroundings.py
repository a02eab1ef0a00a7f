"""What surrounds a call does not reach the native engine: torch's defaults, addresses, an interrupted run."""

import gc
import signal
import weakref

import pytest
import torch

from patchcore_fast.kernels import Tuning, k_center_greedy, knn
from patchcore_fast.kernels.backends import native_backend


def rows(n=700, d=128):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_default_dtype(monkeypatch, isa):
    reasons = dict(native_backend.native().explain_isa())
    if reasons[isa]:
        pytest.skip(reasons[isa])
    monkeypatch.setenv("PATCHCORE_FAST_ISA", isa)
    x, tuning = rows(), Tuning(prune="partial")
    wanted = k_center_greedy(x, 20, backend="native", tuning=tuning)
    torch.set_default_dtype(torch.float64)
    try:
        found = k_center_greedy(x, 20, backend="native", tuning=tuning)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.indices, wanted.indices)


def test_default_device():
    x = rows()
    wanted = k_center_greedy(x, 20, backend="native"), knn(x, x, 3, backend="native")
    with torch.device("meta"):
        found = k_center_greedy(x, 20, backend="native"), knn(x, x, 3, backend="native")
    assert torch.equal(found[0].indices, wanted[0].indices) and torch.equal(found[0].radii, wanted[0].radii)
    assert torch.equal(found[1][1], wanted[1][1])


def test_rows_off_their_alignment():
    memory = bytearray(2 + 4 * 480)
    x = torch.frombuffer(memory, dtype=torch.float32, count=480, offset=2).view(60, 8)
    x.copy_(rows(60, 8))
    assert torch.equal(k_center_greedy(x, 20, backend="native").indices, k_center_greedy(x.clone(), 20).indices)
    assert torch.equal(knn(x, x, 3, backend="native")[1], knn(x.clone(), x.clone(), 3)[1])


def test_an_interrupted_run_is_let_go(monkeypatch):
    made = []
    start = native_backend.NativeKCenter.__init__
    monkeypatch.setattr(
        native_backend.NativeKCenter, "__init__", lambda self, *a: (made.append(weakref.ref(self)), start(self, *a))[1]
    )

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)  # found by the engine between two tasks
    try:
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                k_center_greedy(rows(60_000, 256), 20_000, backend="native")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    gc.collect()
    assert len(made) == 3 and all(leaves() is None for leaves in made)
