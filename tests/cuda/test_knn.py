"""The CUDA k-NN against float64 brute force: on a card, or its kernels' sources on the emulator."""

import logging

import pytest
import torch

from patchcore_fast.kernels.backends.cuda_kernels import knn as host
from patchcore_fast.kernels.backends.cuda_kernels.library import library
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.backends.device import plan

from ..kernels.cases import awkward, gaussian, integers
from ..kernels.tiled_knn import (  # noqa: F401
    TYPES,
    check_layouts,
    test_awkward_banks,
    test_many_neighbours,
    test_rarity,
    test_ties_go_to_the_lowest_row,
)
from .knn_runs import DEVICE, check, engine  # noqa: F401

ON_EMULATOR = pytest.mark.skipif(DEVICE != "cpu", reason="of the emulator")


def test_numbers_of_the_kernels():
    assert library(torch.device(DEVICE)).knn_limits() == {
        "queries": host.TILE, "neighbours": plan.MOST_NEIGHBOURS, "rows": host.MOST_ROWS, "aligned": host.ALIGNED,
        "crowded": plan.CROWDED, "slots": plan.slots_of(plan.MOST_NEIGHBOURS),
    }  # fmt: skip


@pytest.mark.parametrize("name", awkward())
def test_awkward_banks_whole_and_far_queries(name, pieces):
    pieces(17)
    bank = awkward()[name][:40]
    query = gaussian(5, bank.shape[1], seed=4)
    query[:3] *= 1e4
    check(query, bank, bank.shape[0])
    check(query.half(), bank, 2)


@pytest.mark.parametrize("name", ["duplicates", "constant", "equal distances"])
def test_crowded_queries_without_thinning(name, rescued):
    bank = awkward()[name][:200]
    check(bank[5:14] * 1.01, bank, 3)
    assert sum(rescued) > 0


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 33, 5), (33, 1, 5), (127, 63, 7), (128, 64, 8), (129, 65, 9), (17, 131, 16), (49, 97, 24),
     (130, 200, 33), (5, 70, 700)],
    ids=str,
)  # fmt: skip
def test_odd_sizes(shape):
    q, m, d = shape
    for k in {1, min(m, 6)}:
        check(gaussian(q, d, seed=1), gaussian(m, d), k)


ORDERS = ("nearest last", "nearest first", "one distance", "two distances")
FULL = [pytest.param(order, k, marks=[pytest.mark.thorough] * (k in (5, 13) or (order != "nearest last" and k == 64)))
        for order in ORDERS for k in (1, 5, 13, 20, 64)]  # fmt: skip


@pytest.mark.parametrize("order, k", FULL)
def test_rows_in_orders_that_fill_the_buffers(order, k, rescued):
    # Nearest last: every row of every tile enters, more than a buffer holds. One distance: none enters but the first.
    place = torch.arange(700.0)
    bank = torch.stack([place, torch.zeros(700)], 1)
    if order == "nearest last":
        bank = bank.flip(0)
    elif order == "one distance":
        bank[:, 0] = 3
    elif order == "two distances":  # the nearer ones come last, and among them those of low rows win
        bank[:, 0] = torch.where(place < 500, 9.0, 4.0)
    query = torch.tensor([[0.0, 0.0], [-5.0, 1.0]]).repeat(70, 1)
    check(query, bank, k)
    assert not rescued  # integers: float32 is exact
    check(query, bank + 0.1, k)


def test_more_rows_than_are_counted(monkeypatch, caplog, plans):
    monkeypatch.setattr(host, "MOST_ROWS", 50)
    with caplog.at_level(logging.DEBUG, "patchcore_fast.kernels"):
        check(gaussian(3, 9, seed=1), gaussian(49, 9), 2)
        assert "on torch's matrix products" not in caplog.text and len(plans) == 2
        check(gaussian(3, 9, seed=1), gaussian(50, 9), 2)
    assert "50 bank rows are more than the CUDA kernels count" in caplog.text and len(plans) == 2


@pytest.mark.parametrize("types", [a + b for a in "hbfd" for b in "hbfd"])
def test_mixed_types(types, rescued):
    query, bank = (gaussian(9, 33, seed=2) * 3 + 5).to(TYPES[types[0]]), (gaussian(70, 33) * 3 + 5).to(TYPES[types[1]])
    check(query, bank, 4)
    bank[:40] = bank[3]
    check(bank[:20].to(TYPES[types[0]]), bank, 4)
    assert sum(rescued) > 0


def test_layouts(pieces):
    pieces(33)
    check_layouts(check)


@pytest.mark.parametrize("k", [1, 4])
def test_crowded_beside_ordinary(k, rescued, monkeypatch):
    # A quarter of the bank and of the queries are one row. With and without thinning out equal bank rows.
    bank, query = gaussian(120, 16), gaussian(24, 16, seed=1)
    bank[::4] = query[::4] = 0.3
    for few in (0, 1000):
        monkeypatch.setattr(searching, "_FEW", few)
        check(query, bank, k)
    assert len(rescued) == 4 and all(6 <= n < 24 for n in rescued)


@pytest.mark.parametrize("k", [2, 40])
@pytest.mark.parametrize("blocks", [1, 2, 5, 9])
def test_crowded_queries_among_blocks(blocks, k, rescued, monkeypatch):
    # Fewer blocks than 16 queries each ask for, and several of them to 16 queries, each with a part of the bank.
    monkeypatch.setattr(plan, "_RESCUERS", blocks)
    monkeypatch.setattr(searching, "processors", lambda device: 1)
    monkeypatch.setattr(searching, "_FEW", 1000)
    bank = gaussian(4, 12).repeat(100, 1)
    bank[5::20] += 1e-7
    check(torch.cat([bank[:33], gaussian(2, 12, seed=1)]), bank, k)
    assert rescued == [35, 35]


def test_bank_split_among_blocks(monkeypatch, plans):
    monkeypatch.setattr(searching, "processors", lambda device: 40)
    monkeypatch.setattr(host, "_SPLIT_ROWS", 64)  # one tile of the bank
    for m, splits in ((200, 3), (1250, 19), (1290, 20)):
        check(gaussian(20, 9, seed=1), gaussian(m, 9), 7)
        check(integers(20, 2, seed=1), integers(m, 2), 20)  # ties across splits
        assert plans[-1].splits == splits


USUAL = ((1, 64), (1, 67), (64, 64))
SETTLED = [pytest.param(k, queries, marks=[pytest.mark.thorough] * ((k, queries) not in USUAL))
           for k in (1, 12, 64) for queries in (63, 64, 67, 200)]  # fmt: skip


@pytest.mark.parametrize("k, queries", SETTLED)
def test_settling_by_a_warp_or_by_four(queries, k, monkeypatch, plans):
    # From 32 queries a multiprocessor on, of which the emulator has two, each is settled by a warp.
    rows = 700 if k < 64 else 400
    for count in (1, 40):
        monkeypatch.setattr(searching, "processors", lambda device, count=count: count)
        monkeypatch.setattr(host, "_SPLIT_ROWS", 64)
        check(gaussian(queries, 9, seed=1), gaussian(rows, 9), k)
        check(integers(queries, 2, seed=1), integers(rows, 2), k)
    assert len({p.splits for p in plans}) == 2


def test_splits_and_chunks(monkeypatch, plans, pieces):
    # Rows arrive at a split out of order; the last chunk leaves some splits without rows.
    monkeypatch.setattr(searching, "processors", lambda device: 40)
    monkeypatch.setattr(host, "_SPLIT_ROWS", 64)
    pieces(400)
    for d in (2, 20):
        check(integers(20, d, seed=1), integers(1000, d), 9)
        check(gaussian(20, d, seed=1), gaussian(850, d), 3)
        assert (plans[-1].bank, plans[-1].splits) == (400, 6)


@ON_EMULATOR
@pytest.mark.parametrize("arch", [75, 80])
def test_any_order_of_threads(arch, every_seed, monkeypatch, pieces, plans):
    # Below sm_80 nothing is copied asynchronously. The emulator also ends a launch with a race in it.
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", str(arch))
    monkeypatch.setattr(host, "_SPLIT_ROWS", 64)
    for _ in every_seed(2):
        pieces(1000)
        check(gaussian(140, 33, seed=1), gaussian(300, 33), 5)
        check(integers(9, 3, seed=1), integers(300, 3), 40)
        bank = awkward()["duplicates"]
        check(bank[:20] * 1.01, bank, 20)
        pieces(100)
        check(gaussian(120, 8, seed=1), gaussian(330, 8), 2)
    assert {p.splits > 1 for p in plans} == {False, True}
