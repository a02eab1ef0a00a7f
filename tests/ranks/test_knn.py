"""Neighbours and rarity over ranks are those of one process."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.kernels import knn, knn_rarity

from ..kernels.cases import awkward, gaussian, integers
from ..kernels.engines import BACKENDS
from .selections import neighbours, own, parts, rarity


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("replicated", [0, 1 << 30], ids=["queries go around", "the bank goes to all"])
def test_neighbours(workers, replicated, backend):
    cases = {**awkward(), "integers": integers(300, 24)}
    for name in ("gaussian", "integers", "duplicates", "float16", "one row very far", "float64 below float32"):
        bank = cases[name]
        query = torch.cat([bank[::5] * 1.001, bank[:3]]).to(bank.dtype)
        for k in (1, 9, len(bank)):
            distances, rows = knn(query, bank, k)
            for size in (1, 4):
                asked, held = parts(len(query), size, seed=1), parts(len(bank), size, seed=2)
                found = workers.call(neighbours, size, query, bank, k, asked, held, replicated, backend)
                for rank, (near, which) in enumerate(found):
                    assert which.tolist() == own(rows, rank, asked).tolist(), (name, k, size, rank)
                    assert torch.equal(near, own(distances, rank, asked))


def test_rarity(workers):
    x = gaussian(200, 7)
    for options in ({"anchors": 50}, {"anchors": torch.arange(0, 200, 3)}, {"anchors": 1000}):
        expected = knn_rarity(x, 5, **options)
        for size in (1, 7):
            counts = parts(200, size)
            found = workers.call(rarity, size, x, 5, counts, options)
            assert torch.equal(torch.cat(found), expected)
