"""What the k-NN tests of this folder share: on a card whose kernels are built, else on the emulator (kcenter_runs)."""

import pytest
import torch

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.backends.device import plan
from patchcore_fast.kernels.knn.reference import knn_reference

from .kcenter_runs import DEVICE, ENGINE

__all__ = ["DEVICE", "EXACT", "check", "engine", "pieces"]
EXACT = ("ieee", "tf32x3")  # float32 multiply-adds, and tensor cores


@pytest.fixture(autouse=True, params=[ENGINE], ids=str)
def engine(request):
    """The CUDA backend, on the card or on the emulator."""
    if DEVICE == "cpu":
        request.getfixturevalue("emulated")
    return request.param


@pytest.fixture
def pieces(monkeypatch):
    """`pieces(rows)`: queries and bank come in pieces of at most so many rows, whatever the memory."""

    def cut(rows):
        monkeypatch.setattr(plan, "_rounded", lambda wanted, most, tile: min(most, rows))

    return cut


def check(query, bank, k, precisions=EXACT, **options):
    """Rows and distances equal float64 brute force, bit for bit, in every arithmetic asked for."""
    query, bank = query.to(DEVICE), bank.to(DEVICE)
    expected = knn_reference(query, bank, k)
    for precision in precisions:
        distance, rows = knn(query, bank, k, backend="cuda", precision=precision, **options)
        assert torch.equal(rows, expected[1]), precision
        assert torch.equal(distance, expected[0]), precision
        assert distance.dtype == torch.float32 and rows.dtype == torch.int64
