"""k-NN on float16 and bfloat16 rows as they are: the mode "half"."""

import pytest
import torch

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.backends.cuda_kernels import knn as host
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.backends.native_rows import describe
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import awkward, gaussian, integers
from .addresses import BUFFERS, SIZES, laid_out
from .knn_runs import DEVICE, engine, pieces  # noqa: F401
from .knn_runs import check as check_in

HALVES = [torch.float16, torch.bfloat16]
of_halves = pytest.mark.parametrize("dtype", HALVES, ids=str)
ON_EMULATOR = pytest.mark.skipif(DEVICE != "cpu", reason="of the emulator")
ARCH, BITS = "PATCHCORE_FAST_CUDA_EMULATED_ARCH", "PATCHCORE_FAST_CUDA_EMULATED_MMA_HALF"


def search_of(query, bank, k=1, **budget):
    return host.CudaSearch(query.to(DEVICE), bank.to(DEVICE), k, Budget(**budget))


def check(query, bank, k, mode="half"):
    """Neighbours equal float64 brute force, found in this arithmetic."""
    taken = search_of(query, bank, k).arithmetic.mode
    assert taken == mode if mode == "half" else taken != "half"
    check_in(query, bank, k, precisions=("float32",))


@of_halves
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 33, 5), (33, 1, 5), (127, 63, 7), (128, 64, 8), (129, 65, 9), (17, 131, 15), (49, 97, 17),
     (130, 200, 33), (5, 70, 700)],
    ids=str,
)  # fmt: skip
def test_sizes(shape, dtype):
    q, m, d = shape
    sign = 1 - 2 * (torch.arange(m) % 2)[:, None]  # no centre, few columns or one row
    bank = gaussian(m, d) * sign if m > 1 else torch.zeros(1, d)
    for k in {1, min(m, 6)}:
        check_in(gaussian(q, d, seed=1).to(dtype), bank.to(dtype), k, precisions=("float32",))


STAY = {
    "gaussian": lambda: gaussian(200, 24),
    "ties": lambda: integers(200, 3),
    "duplicates": lambda: gaussian(20, 10).repeat(10, 1),
    "clusters": lambda: gaussian(10, 33).repeat(20, 1) + 1e-2 * gaussian(200, 33, 1),
    "zero": lambda: torch.zeros(40, 5),
    "small": lambda: gaussian(200, 16) * 2.0**-16,
    "mixed sizes": lambda: gaussian(200, 16) * torch.logspace(-6, 3, 200)[:, None],
}


@of_halves
@pytest.mark.parametrize("k", [1, 9, 40])
@pytest.mark.parametrize("name", STAY)
def test_rows_that_stay_what_they_are(name, k, dtype):
    bank = STAY[name]().to(dtype)
    query = torch.cat([bank[::7], (gaussian(9, bank.shape[1], seed=3) * 5).to(dtype)])
    check(query, bank, k)


@of_halves
def test_however_they_lie(dtype):
    x, y = laid_out(gaussian(40, 21).to(dtype)), laid_out(gaussian(150, 21, seed=1).to(dtype))
    for query in x.values():
        for bank in y.values():
            check(query, bank, 3)


@of_halves
def test_other_rows_are_taken_as_ever(dtype):
    x, other = gaussian(100, 16).to(dtype), HALVES[1 - HALVES.index(dtype)]
    check(x[:20] + 50, x + 50, 3, "off-centre")
    check(x[:20].to(other), x, 3, "two types")
    check(x[:20].float(), x, 3, "float32 queries")
    check(x[:20], x.float(), 3, "a float32 bank")
    assert search_of(x, x, precision="ieee").arithmetic.mode == "ieee"
    assert search_of(x, x, precision="tf32x3").arithmetic.mode == "tf32x3"


@of_halves
@pytest.mark.parametrize("rows", [1, 31, 100])
def test_pieces(rows, pieces, plans, dtype):  # noqa: F811
    pieces(rows)
    few = 7 if rows == 1 else 131
    check(gaussian(few, 40, seed=1).to(dtype), gaussian(few, 40).to(dtype), 2)
    assert all(p.bank == rows and p.queries == min(rows, few) and p.pitch == 48 for p in plans)


@of_halves
def test_bank_split_among_blocks(monkeypatch, plans, dtype):
    monkeypatch.setattr(searching, "processors", lambda device: 40)
    monkeypatch.setattr(host, "_SPLIT_ROWS", 64)  # one tile of the bank
    for m, splits in ((200, 3), (1250, 19)):
        check(gaussian(20, 9, seed=1).to(dtype), gaussian(m, 9).to(dtype), 7)
        check(integers(20, 2, seed=1).to(dtype), integers(m, 2).to(dtype), 20)  # ties across splits
        assert plans[-1].splits == splits


@of_halves
@pytest.mark.parametrize("few", [0, 1000])
def test_crowded_queries(few, rescued, monkeypatch, dtype):
    monkeypatch.setattr(searching, "_FEW", few)
    bank, query = gaussian(120, 17).to(dtype), gaussian(24, 17, seed=1).to(dtype)
    bank[::4] = query[::4] = 0.3
    check(query, bank, 4)
    assert len(rescued) == 1 and 6 <= rescued[0] < 24


def test_packed_halves_take_half_the_memory():
    made = [search_of(x, x) for x in (gaussian(2000, 63), gaussian(2000, 63).half())]
    shapes = [search._scratch(search.plan(1 << 24)) for search in made]
    for name in ("packed", "packed_bank"):
        assert shapes[0][name] == (torch.float32, (2000, 64)) and shapes[1][name] == (torch.float32, (2000, 32))
    # In the same memory there is room for twice the bank rows.
    assert [search.plan(1 << 19).bank for search in made] == [768, 1536]


def test_while_a_graph_is_captured_nothing_is_known_of_the_rows(monkeypatch):
    x = gaussian(40, 8).half().to(DEVICE)
    knn(x, x, 1, backend="cuda")
    monkeypatch.setattr(searching, "captured", lambda device: True)
    assert search_of(x, x).arithmetic.mode != "half"
    check_in(x, x, 2, precisions=("float32",))


@ON_EMULATOR
@of_halves
def test_by_card_and_verdict(monkeypatch, dtype):
    x = gaussian(150, 16).to(dtype)
    for arch, taken in (("75", "ieee"), ("80", "half"), ("86", "half"), ("120", "half")):
        monkeypatch.setenv(ARCH, arch)
        assert search_of(x, x).arithmetic.mode == taken
        check_in(x[:30], x, 3, precisions=("float32",))
    monkeypatch.setenv(BITS, "22 24 22 1")
    assert search_of(x, x).arithmetic.mode == "ieee"
    check_in(x[:30], x, 3, precisions=("float32",))


@ON_EMULATOR
@of_halves
def test_any_order_of_threads(every_seed, monkeypatch, pieces, dtype):  # noqa: F811
    monkeypatch.setattr(host, "_SPLIT_ROWS", 64)
    bank = awkward()["duplicates"].to(dtype)
    for _ in every_seed(3):
        pieces(1000)
        check(gaussian(140, 33, seed=1).to(dtype), gaussian(300, 33).to(dtype), 5)
        check((bank[:20] * 1.01).to(dtype), bank, 20)
        pieces(100)
        check(gaussian(120, 8, seed=1).to(dtype), gaussian(330, 8).to(dtype), 2)


@ON_EMULATOR
def test_what_the_mode_refuses(emulated):
    bank = gaussian(30, 5).half()
    options = {**BUFFERS, **SIZES, "mode": "half", "bank": describe(bank), "device": -1}
    search = emulated.KnnSearch(**options)
    with pytest.raises(ValueError, match="in mode half query and bank must be of one type"):
        search.some(describe(bank[:3].bfloat16()), 64, 64, packed_already=False, stream=0)
    with pytest.raises(ValueError, match=r"pitch must lie in 3\.\."):
        emulated.KnnSearch(**{**options, "pitch": 2})
