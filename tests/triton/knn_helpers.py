"""What the tests of the Triton k-NN share."""

import torch

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.backends.triton_kernels.tiles import Tile
from patchcore_fast.kernels.knn.reference import knn_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Tile(16, 32, 16, 1, 1)  # several tiles along every side even of tiny matrices


def check(query, bank, k, **options):
    """Rows and distances equal float64 brute force, bit for bit."""
    query, bank = query.to(DEVICE), bank.to(DEVICE)
    expected = knn_reference(query, bank, k)
    distance, rows = knn(query, bank, k, backend="triton", **options)
    assert torch.equal(rows, expected[1])
    assert torch.equal(distance, expected[0])
    assert distance.dtype == torch.float32 and rows.dtype == torch.int64
