"""The Triton k-NN in pieces, in little memory, as an operator; its choice by `auto`."""

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels import explain_backends, knn
from patchcore_fast.kernels.backends import choose_backend
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.backends.triton_kernels import knn as host
from patchcore_fast.kernels.exact import root
from patchcore_fast.kernels.knn.reference import knn_reference
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian, integers
from ..kernels.tiled_knn import (  # noqa: F401
    test_compiles_into_one_graph,
    test_nothing_is_queries_by_bank,
    test_opcheck,
    test_out_of_memory_makes_pieces_smaller,
    test_unfinite_rows_are_refused,
)
from ..kernels.watch import Allocations
from .knn_helpers import DEVICE, check  # noqa: F401

LITTLE = {"memory_limit": 3 << 20}


@pytest.mark.parametrize("limit", [1 << 14, 1 << 16])
def test_pieces(limit, small_tiles, plans):
    # Chunks of the bank and of the queries of odd sizes; slots live on from chunk to chunk.
    for query, bank in ((gaussian(101, 40, seed=1), gaussian(171, 40)), (integers(101, 2, seed=1), integers(571, 2))):
        squared, rows = host.knn(query.to(DEVICE), bank.to(DEVICE), 2, Budget(memory_limit=limit))
        expected = knn_reference(query, bank, 2)
        assert torch.equal(rows.cpu(), expected[1]) and torch.equal(root(squared.cpu()).float(), expected[0])
        cut = plans[-1]
        assert cut.bank < bank.shape[0] and bank.shape[0] % cut.bank
    assert plans[0].queries < 101 and 101 % plans[0].queries


def test_memory_stays_within_the_limit(small_tiles):
    query, bank = gaussian(40, 50, seed=1).to(DEVICE), gaussian(250, 50).to(DEVICE)
    search = host.TritonSearch(query, bank, 3, Budget())
    for limit in (1 << 14, 1 << 15):
        cut = search.plan(limit)
        with Allocations() as seen:
            search.run(cut)
        assert cut.bank < 250 and cut.queries <= 40
        assert limit / 4 < seen.peak <= limit + 40 * 3 * (8 + 8) + 1024
        search.buffers = {}


def test_unchecked_rows_give_valid_row_numbers(monkeypatch, small_tiles):
    # What a captured graph does, in which nothing is looked at by the host.
    monkeypatch.setattr(searching, "captured", lambda device: True)
    query, bank = gaussian(20, 4).to(DEVICE), gaussian(50, 4, seed=1).to(DEVICE)
    expected = knn_reference(query, bank, 3)
    distance, rows = knn(query, bank, 3, backend="triton")
    assert torch.equal(rows, expected[1]) and torch.equal(distance, expected[0])
    query[3, 1] = torch.nan
    for value in (torch.nan, torch.inf):
        bank[7:] = value
        rows = knn(query, bank, 3, backend="triton")[1]
        assert bool(((rows >= 0) & (rows < 50)).all())


def test_auto_never_takes_the_interpreter():
    rows = {(s.backend, s.device): s for s in explain_backends()}
    if torch.cuda.is_available():
        assert rows["triton", "cuda"].available
        assert choose_backend("t", "auto", torch.device("cuda")).name in ("triton", "cuda")
    else:
        assert rows["triton", "cpu"].available and "interpreter" in rows["triton", "cpu"].reason
        assert "no CUDA device" in rows["triton", "cuda"].reason
    assert choose_backend("t", "auto", torch.device("cpu")).name in ("native", "torch")
