"""The Triton backend's k-NN against float64 brute force: in the interpreter where there is no CUDA device."""

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.backends.device import plan
from patchcore_fast.kernels.backends.device.twins import surplus_twins
from patchcore_fast.kernels.backends.triton_kernels import knn as host
from patchcore_fast.kernels.backends.triton_kernels.precision import Arithmetic
from patchcore_fast.kernels.backends.triton_kernels.tiles import Tile
from patchcore_fast.kernels.knn.reference import knn_reference
from patchcore_fast.kernels.rounding import ErrorBound

from ..kernels.cases import awkward, gaussian, integers
from ..kernels.tiled_knn import (  # noqa: F401
    TYPES,
    check_layouts,
    test_awkward_banks,
    test_many_neighbours,
    test_rarity,
    test_ties_go_to_the_lowest_row,
)
from .knn_helpers import DEVICE, SMALL, check


@pytest.mark.parametrize("name", awkward())
def test_awkward_banks_whole_and_far_queries(name, small_tiles):
    bank = awkward()[name][:40]
    query = gaussian(5, bank.shape[1], seed=4)
    query[:3] *= 1e4
    check(query, bank, bank.shape[0])
    check(query.half(), bank, 2)


@pytest.mark.parametrize("name", ["duplicates", "constant", "equal distances"])
def test_crowded_queries_without_thinning(name, rescued, small_tiles):
    bank = awkward()[name][:200]
    check(bank[5:14] * 1.01, bank, 3)
    assert sum(rescued) > 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 33, 5), (33, 1, 5), (17, 31, 16), (15, 65, 33), (49, 97, 47)])
@pytest.mark.parametrize("tile", [SMALL, Tile(32, 16, 64, 2, 1), Tile(64, 64, 64, 4, 1)], ids=str)
def test_odd_sizes(shape, tile, monkeypatch):
    monkeypatch.setattr(host, "choose_tile", lambda *arguments: tile)
    q, m, d = shape
    for k in {1, min(m, 6)}:
        check(gaussian(q, d, seed=1), gaussian(m, d), k)


@pytest.mark.parametrize("types", [a + b for a in "hbfd" for b in "hbfd"])
def test_mixed_types(types):
    query, bank = (gaussian(9, 33, seed=2) * 3 + 5).to(TYPES[types[0]]), (gaussian(70, 33) * 3 + 5).to(TYPES[types[1]])
    check(query, bank, 4)


def test_layouts(small_tiles):
    check_layouts(check)


@pytest.mark.parametrize("k", [1, 4])
def test_crowded_beside_ordinary(k, rescued, monkeypatch):
    # A quarter of the bank and of the queries are one row. With and without thinning out equal bank rows.
    bank, query = gaussian(120, 16), gaussian(24, 16, seed=1)
    bank[::4] = query[::4] = 0.3
    for few in (0, 1000):
        monkeypatch.setattr(searching, "_FEW", few)
        check(query, bank, k)
    assert 6 <= rescued[0] == rescued[1] < 24


@pytest.mark.parametrize("programs", [1, 2, 5, 9])
def test_crowded_queries_among_programs(programs, small_tiles, rescued, monkeypatch):
    # Fewer programs than blocks of 16 queries, and several of them to a block, each with a part of the bank.
    monkeypatch.setattr(plan, "_RESCUERS", programs)
    monkeypatch.setattr(searching, "processors", lambda device: 1)
    monkeypatch.setattr(searching, "_FEW", 1000)
    check(gaussian(35, 5, seed=1), gaussian(4, 5).repeat(25, 1), 2)
    assert rescued == [35]


class Coarse(Arithmetic):
    """bfloat16 with a bound that is true: F is off by as much as a certificate has to stand."""

    def bound(self, dim, exponent, rounded=True):
        c = 2.0**-7
        return ErrorBound(relative=3 * c, norm=8 * c * (1 + 4 * c), absolute=dim * 2.0 ** (exponent - 120))


@pytest.mark.parametrize("k", [1, 4])
def test_the_certificate_holds_where_products_are_coarse(k, rescued, monkeypatch):
    monkeypatch.setattr(host, "choose_arithmetic", lambda *arguments: Coarse("bf16"))
    centres = gaussian(20, 20) * 3
    bank = torch.cat([centres[:10].repeat(3, 1), centres[10:].repeat(7, 1)])  # 4 and 8 slots hold one kind each
    check(centres + gaussian(20, 20, seed=1) / 9, bank + gaussian(100, 20, seed=2) / 9, k)
    assert 0 < rescued[0] < 20


@pytest.mark.parametrize("dtype", TYPES.values(), ids=str)
def test_surplus_twins(dtype):
    bank = gaussian(60, 3).to(dtype)
    bank[7:50:3] = bank[2]
    bank[30], bank[31] = 0.0, -0.0
    assert bank[30].eq(bank[31]).all()
    for k in (1, 4):
        equal = (bank[:, None] == bank[None]).all(2).tril(-1).sum(1)
        equal[31] = 0  # their bits differ: kept, which is safe
        assert surplus_twins(bank.to(DEVICE), k).cpu().tolist() == (equal >= k).tolist()


@pytest.mark.parametrize("k", [1, 5])
def test_splits(k, small_tiles, plans, monkeypatch):
    monkeypatch.setattr(searching, "processors", lambda device: 16)
    monkeypatch.setattr(host, "_SPLIT_TILES", 1)
    check(gaussian(20, 9, seed=1), gaussian(200, 9), k)
    check(integers(20, 2, seed=1), integers(200, 2), k)  # ties across splits
    assert all(p.splits == 6 for p in plans)
    # Splits and chunks: rows arrive at a split out of order.
    monkeypatch.setattr(plan, "_rounded", lambda rows, most, multiple: min(most, 3 * multiple))
    check(integers(20, 2, seed=1), integers(200, 2), k)
    assert (plans[-1].bank, plans[-1].splits) == (96, 3)


def test_int64_rows(small_tiles, monkeypatch):
    class Long(host.TritonSearch):
        def _prepare(self):
            super()._prepare()
            self.row_type = torch.int64

    monkeypatch.setattr(host, "TritonSearch", Long)
    check(gaussian(9, 5, seed=1), gaussian(80, 5), 3)
    check(awkward()["constant"][:9], awkward()["constant"][:40], 2)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_less_precision_is_a_permission(precision):
    # The interpreter computes tf32 in float32; bfloat16 is off by 2^-8, which well separated rows do not mind.
    query, bank = gaussian(10, 40, seed=1).to(DEVICE), gaussian(90, 40).to(DEVICE)
    bank[:10] = query + 0.01
    distance, rows = knn(query, bank, 1, backend="triton", precision=precision)
    assert torch.equal(rows, torch.arange(10, device=DEVICE)[:, None])
    assert torch.equal(distance, knn_reference(query, bank, 1)[0])
    wide = knn(query, bank, 20, backend="triton", precision=precision)[0]
    assert bool((wide.diff(dim=1) >= 0).all())
    torch.testing.assert_close(wide, knn_reference(query, bank, 20)[0], rtol=0.02, atol=0.05)
