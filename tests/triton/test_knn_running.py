"""The Triton k-NN in pieces, in little memory, as an operator; its choice by `auto`."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.library import opcheck

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels import explain_backends, knn
from patchcore_fast.kernels.backends import choose_backend
from patchcore_fast.kernels.backends.triton_kernels import knn as host
from patchcore_fast.kernels.backends.triton_kernels.frame import choose_frame
from patchcore_fast.kernels.backends.triton_kernels.launch import capability
from patchcore_fast.kernels.backends.triton_kernels.precision import choose_arithmetic
from patchcore_fast.kernels.exact import root
from patchcore_fast.kernels.knn.reference import knn_reference
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian, integers
from ..kernels.watch import Allocations
from .knn_helpers import DEVICE, check


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
    arithmetic = choose_arithmetic("float32", capability(query.device), 50)
    search = host.Search(query, bank, 3, choose_frame("knn", arithmetic, True, bank=bank), arithmetic, False)
    for limit in (1 << 14, 1 << 15):
        cut = search.plan(limit)
        with Allocations() as seen:
            search.run(cut)
        assert cut.bank < 250 and cut.queries <= 40
        assert limit / 4 < seen.peak <= limit + 40 * 3 * (8 + 8) + 1024
        search.packed = search.packed_bank = search.value = search.row = search.exact = None


def test_nothing_is_queries_by_bank(plans):
    query, bank = gaussian(400, 2, seed=1).to(DEVICE), gaussian(2000, 2).to(DEVICE)
    with Allocations() as seen:
        knn(query, bank, 1, backend="triton")
    assert 0 < max(size for _, size in seen.made) < 400 * 2000 / 4


def test_out_of_memory_makes_pieces_smaller(plans, monkeypatch, caplog):
    query, bank = gaussian(40, 90, seed=1), gaussian(3000, 90)
    empty, refused = host.Search._empty, []

    def scarce(self, dtype, *shape):
        if shape[-1] == 96 and shape[0] == 3000:
            refused.append(shape)
            raise torch.OutOfMemoryError("there is no more, says the test")
        return empty(self, dtype, *shape)

    monkeypatch.setattr(host.Search, "_empty", scarce)
    with caplog.at_level(logging.DEBUG, "patchcore_fast.kernels"):
        check(query, bank, 3, memory_limit=3 << 20)
    assert refused == [(3000, 96)] and [p.bank == 3000 for p in plans] == [True, False]
    assert "out of memory" in caplog.text
    monkeypatch.setattr(host.Search, "_empty", lambda *arguments: scarce(arguments[0], None, 3000, 96))
    with pytest.raises(torch.OutOfMemoryError, match="says the test"):
        knn(query.to(DEVICE), bank.to(DEVICE), 3, backend="triton")


def test_unfinite_rows_are_refused():
    x, bad = gaussian(9, 4).to(DEVICE), gaussian(30, 4).to(DEVICE)
    bad[7, 2], bad[20, 1] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="knn: bank must be finite; 2 of 30 rows are not finite, the first is row 7"):
        knn(x, bad, 1, backend="triton")
    with pytest.raises(ValueError, match="knn: query must be finite; 2 of 30 rows"):
        knn(bad, x, 1, backend="triton")


def test_unchecked_rows_give_valid_row_numbers(monkeypatch, small_tiles):
    # What a captured graph does, in which nothing is looked at by the host.
    monkeypatch.setattr(host, "captured", lambda device: True)
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
        assert rows["triton", "cuda"].available and choose_backend("t", "auto", torch.device("cuda")).name == "triton"
    else:
        assert rows["triton", "cpu"].available and "interpreter" in rows["triton", "cpu"].reason
        assert "no CUDA device" in rows["triton", "cuda"].reason
    assert choose_backend("t", "auto", torch.device("cpu")).name in ("native", "torch")


def test_opcheck():
    x, y = gaussian(10, 6).to(DEVICE), gaussian(30, 6, seed=1).to(DEVICE)
    opcheck(torch.ops.patchcore_fast.knn.default, (x, y, 3, "triton", "float32", 1 << 24))


def test_compiles_into_one_graph():
    bank, query = gaussian(40, 6).to(DEVICE), gaussian(9, 6, seed=1).to(DEVICE)

    def score(x):
        return knn(x * 2, bank, 3, backend="triton", precision="float32", memory_limit=1 << 22)[0].mean(1)

    assert torch.equal(torch.compile(score, fullgraph=True, backend="aot_eager")(query), score(query))
