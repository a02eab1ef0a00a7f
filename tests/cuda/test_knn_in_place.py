"""Queries and bank rows that the search reads as they lie: nothing is packed of them."""

import pytest
import torch

from patchcore_fast.kernels.backends.cuda_kernels import knn as host
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.backends.native_rows import describe
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian, integers
from ..kernels.watch import Allocations
from .addresses import BUFFERS, SIZES
from .knn_runs import DEVICE, EXACT, check, engine, pieces  # noqa: F401

BOTH, NONE = {"query": True, "bank": True}, {"query": False, "bank": False}


def in_place(query, bank, k=1, **budget):
    return host.CudaSearch(query.to(DEVICE), bank.to(DEVICE), k, Budget(**budget)).in_place


def wide(n, d, seed=0):
    """[n, d] with a gap behind each row."""
    return gaussian(n, d + 8, seed)[:, :d]


X, Y = gaussian(90, 16, seed=1), gaussian(150, 16)
CASES = {
    "float32": (X, Y, BOTH),
    "with gaps": (wide(90, 16, 1), wide(150, 16), BOTH),
    "one row for all": (X[:1].expand(90, 16), Y, BOTH),
    "odd width": (gaussian(90, 20, 1), gaussian(150, 20), NONE),
    "other strides": (gaussian(16, 90, 1).t(), Y, {"query": False, "bank": True}),
    "off 16 bytes": (X, gaussian(151, 16).flatten()[1:-15].view(150, 16), {"query": True, "bank": False}),
    "off-centre": (X + 50, Y + 50, NONE),
    "large": (X * 1e30, Y * 1e30, NONE),
    "float64 bank": (X, Y.double(), {"query": True, "bank": False}),
    "float16 queries": (X.half(), Y, {"query": False, "bank": True}),
}


@pytest.mark.parametrize("precision", EXACT)
@pytest.mark.parametrize("name", CASES)
def test_what_is_read_in_place(name, precision):
    query, bank, expected = CASES[name]
    assert in_place(query, bank, precision=precision) == expected
    check(query, bank, 5, precisions=(precision,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_in_place(dtype):
    for query, bank, expected in (
        (X.to(dtype), Y.to(dtype), BOTH),
        (wide(90, 32, 1).to(dtype)[:, :32], wide(150, 40).to(dtype)[:, :32], BOTH),
        (gaussian(90, 24, 1).to(dtype), gaussian(150, 24).to(dtype), NONE),  # 16 columns at a time
        (gaussian(16, 90, 1).to(dtype).t(), Y.to(dtype), {"query": False, "bank": True}),
    ):
        assert in_place(query, bank) == expected
        check(query, bank, 5, precisions=("float32",))
        if expected == BOTH:  # as float32 numbers these are not
            assert in_place(query, bank, precision="ieee") == NONE


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("rows", [31, 100, 128])
def test_pieces(rows, halves, pieces):  # noqa: F811
    pieces(rows)
    for query, bank in ((gaussian(131, 32, seed=1), wide(140, 32)), (integers(131, 16, seed=1), integers(300, 16))):
        if halves:
            query, bank = query.half(), bank.half()
        assert in_place(query, bank) == BOTH
        check(query, bank, 4, precisions=("float32", *EXACT))


@pytest.mark.parametrize("precision", ["float32", *EXACT])
def test_crowded_queries(precision, rescued, monkeypatch):
    monkeypatch.setattr(searching, "_FEW", 1000)
    bank, query = gaussian(120, 16), gaussian(24, 16, seed=1)
    bank[::4] = query[::4] = 0.3
    for dtype in (torch.float32, torch.float16):
        check(query.to(dtype), bank.to(dtype), 4, precisions=(precision,))
    assert len(rescued) == 2 and all(6 <= n < 24 for n in rescued)


def test_what_lies_right_takes_no_memory():
    query, bank = gaussian(140, 64, seed=1).to(DEVICE), gaussian(1500, 64).to(DEVICE)
    for x, y in ((query, bank), (query.half(), bank.half())):
        search = host.CudaSearch(x, y, 3, Budget())
        shapes = search._scratch(search.plan(1 << 24))
        assert shapes["packed"][1][0] == shapes["packed_bank"][1][0] == 0
        with Allocations() as seen:
            search.run(search.plan(1 << 24))
        assert seen.peak < y.numel() * y.element_size()


def test_while_a_graph_is_captured_all_is_packed(monkeypatch):
    monkeypatch.setattr(searching, "captured", lambda device: True)
    assert in_place(X, Y) == NONE
    check(X, Y, 3)


def test_what_the_module_refuses(emulated):
    bank = gaussian(30, 8)
    options = {**BUFFERS, **SIZES, "mode": "ieee", "bank": describe(bank), "device": -1, "centre": (64, "float32", 8)}
    emulated.KnnSearch(**{**options, "bank_in_place": True, "packed_bank": (0, "float32", 0)})
    for wrong in (gaussian(30, 9)[:, :8], bank.half(), gaussian(30, 16)[:, ::2], gaussian(30, 7)):
        with pytest.raises(ValueError, match="the bank cannot be read in place"):
            emulated.KnnSearch(**{**options, "bank_in_place": True, "bank": describe(wrong)})
    search = emulated.KnnSearch(**{**options, "query_in_place": True, "packed": (0, "float32", 0)})
    with pytest.raises(ValueError, match="the queries cannot be read in place"):
        search.some(describe(gaussian(3, 9)[:, :8]), 64, 64, packed_already=False, stream=0)
