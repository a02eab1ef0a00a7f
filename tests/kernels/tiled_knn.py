"""Tests of the k-NN that tests/cuda and tests/triton both take over. `room` is the file that did, with its `check`."""

import logging
import math

import pytest
import torch
from torch.library import opcheck

from patchcore_fast.kernels import knn, knn_rarity
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.knn.reference import knn_rarity_reference

from .cases import awkward, gaussian, integers
from .watch import Allocations

TYPES = {"h": torch.float16, "b": torch.bfloat16, "f": torch.float32, "d": torch.float64}


ONE = ("gaussian", "duplicates", "far from the origin", "float64 near underflow", "zero", "integers")
BANKS = [pytest.param(k, name, marks=[pytest.mark.thorough] * (k == 1 and name not in ONE))
         for k in (1, 3) for name in awkward()]  # fmt: skip


@pytest.mark.parametrize("k, name", BANKS)
def test_awkward_banks(name, k, room, monkeypatch):
    monkeypatch.setattr(searching, "_FEW", 0)
    bank = awkward()[name]
    room.check(torch.cat([bank[:5], bank[10:15] * 1.01]), bank, k)


@pytest.mark.parametrize("d", [1, 2, 17, 64, 130, 300])
def test_ties_go_to_the_lowest_row(d, room, rescued):
    for k in (1, 5):
        room.check(integers(20, d, seed=1), integers(150, d), k)
    assert not rescued  # float32 is exact


@pytest.mark.parametrize("k", [63, 64, 65, 100])
def test_many_neighbours(k, room, caplog):
    with caplog.at_level(logging.DEBUG, "patchcore_fast.kernels"):
        room.check(gaussian(3, 9, seed=1), gaussian(250, 9), k)
    assert ("on torch's matrix products" in caplog.text) == (k > 64)


def check_layouts(check):
    x = gaussian(1200, 20)
    views = [
        x[:90, ::3],
        x[:90].t()[:, :50].t()[:, :7],
        x[:1].expand(90, 20)[:, :7],
        x.flatten()[1:631].as_strided((90, 7), (7, 1)),
        x.flatten()[:2000].as_strided((90, 7), (3, 2)),
    ]
    for view in views:
        check(view[::9].double() + 0.01, view, 3)
        check(view[::9], x[:80, 3:10], 2)


def test_rarity(room, backend, plans):
    x = gaussian(150, 12).to(room.DEVICE)
    anchors = torch.arange(0, 150, 2, device=room.DEVICE)
    rarity = knn_rarity(x, 5, anchors=anchors, backend=backend, memory_limit=1 << 20)
    torch.testing.assert_close(rarity.cpu(), knn_rarity_reference(x.cpu(), 5, anchors.cpu()), rtol=1e-6, atol=0)
    assert plans  # it went through the kernels


def test_nothing_is_queries_by_bank(room, backend, plans):
    query, bank = gaussian(400, 2, seed=1).to(room.DEVICE), gaussian(2000, 2).to(room.DEVICE)
    with Allocations() as seen:
        knn(query, bank, 1, backend=backend)
    assert 0 < max(size for _, size in seen.made) < 400 * 2000 / 4


def test_out_of_memory_makes_pieces_smaller(room, backend, plans, monkeypatch, caplog):
    query, bank = gaussian(40, 90, seed=1), gaussian(3000, 90)
    empty, refused, most = searching.DeviceSearch._empty, [], 1 << 20

    def scarce(self, dtype, *shape):
        if math.prod(shape) * dtype.itemsize > most:
            refused.append(shape)
            raise torch.OutOfMemoryError("there is no more, says the test")
        return empty(self, dtype, *shape)

    monkeypatch.setattr(searching.DeviceSearch, "_empty", scarce)
    with caplog.at_level(logging.DEBUG, "patchcore_fast.kernels"):
        room.check(query, bank, 3, **room.LITTLE)
    assert len(refused) == 1 and [p.bank == 3000 for p in plans] == [True, False]
    assert "out of memory" in caplog.text
    most = 0
    with pytest.raises(torch.OutOfMemoryError, match="says the test"):
        knn(query.to(room.DEVICE), bank.to(room.DEVICE), 3, backend=backend)


def test_unfinite_rows_are_refused(room, backend):
    x, bad = gaussian(9, 4).to(room.DEVICE), gaussian(30, 4).to(room.DEVICE)
    bad[7, 2], bad[20, 1] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="knn: bank must be finite; 2 of 30 rows are not finite, the first is row 7"):
        knn(x, bad, 1, backend=backend)
    with pytest.raises(ValueError, match="knn: query must be finite; 2 of 30 rows"):
        knn(bad, x, 1, backend=backend)


def test_opcheck(room, backend):
    x, y = gaussian(10, 6).to(room.DEVICE), gaussian(30, 6, seed=1).to(room.DEVICE)
    opcheck(torch.ops.patchcore_fast.knn.default, (x, y, 3, backend, "float32", 1 << 24))


def test_compiles_into_one_graph(room, backend):
    bank, query = gaussian(40, 6).to(room.DEVICE), gaussian(9, 6, seed=1).to(room.DEVICE)

    def score(x):
        return knn(x * 2, bank, 3, backend=backend, precision="float32", memory_limit=1 << 22)[0].mean(1)

    assert torch.equal(torch.compile(score, fullgraph=True, backend="aot_eager")(query), score(query))
