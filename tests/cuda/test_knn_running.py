"""The CUDA k-NN in pieces, in little memory, as an operator; what its module refuses."""

import re
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.backends.cuda_kernels import knn as host
from patchcore_fast.kernels.backends.cuda_kernels.library import library
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.backends.device import plan as plans_of
from patchcore_fast.kernels.backends.native_rows import describe
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
from .addresses import BUFFERS, SIZES
from .knn_runs import DEVICE, EXACT, check, engine  # noqa: F401

LITTLE = {"precisions": EXACT[:1], "memory_limit": 4 << 20}


@pytest.mark.parametrize("rows", [1, 31, 100, 128])
def test_pieces(rows, pieces, plans):
    # Slots live on from chunk to chunk.
    pieces(rows)
    few = 7 if rows == 1 else 131
    for query, bank in (
        (gaussian(few, 40, seed=1), gaussian(few, 40)),
        (integers(few, 2, seed=1), integers(20 * few // 7, 2)),
    ):
        check(query, bank, 2)
    assert all(p.bank == rows and p.queries == min(rows, few) for p in plans)


def test_a_bank_that_is_packed_once(pieces, plans):
    # Queries in pieces against a whole bank, which the second piece finds packed.
    pieces(90)
    check(gaussian(200, 17, seed=1), gaussian(90, 17), 5)
    assert all((p.queries, p.bank) == (90, 90) for p in plans)


def test_memory_stays_within_the_limit():
    query, bank = gaussian(450, 50, seed=1).to(DEVICE), gaussian(450, 50).to(DEVICE)
    search = host.CudaSearch(query, bank, 3, Budget())
    expected = knn_reference(query, bank, 3)[1]
    for limit in (1 << 17, 1 << 18):
        cut = search.plan(limit)
        with Allocations() as seen:
            rows = search.run(cut)[1]
        assert torch.equal(rows, expected)
        assert cut.bank < 450 and cut.queries < 450
        assert limit / 4 < seen.peak <= limit + 450 * 3 * (8 + 8) + 1024
        search.buffers = {}


def make_plan(queries, bank, dim, k, limit):
    """As CudaSearch.plan, on a large card."""
    needs = host.CudaSearch._needs(SimpleNamespace(k=k, _of_a_word=lambda: 1))
    return plans_of.make_plan(queries, bank, dim, k, 132, limit, needs)


@pytest.mark.parametrize("limit", [1 << 20, 1 << 24, 1 << 30])
@pytest.mark.parametrize("dim", [1, 128, 4096])
@pytest.mark.parametrize("k", [1, 9, 64])
def test_plans_keep_to_the_limit(limit, dim, k):
    for queries, bank in ((1, 100), (784, 16384), (163840, 1024), (10**6, 10**7)):
        cut = make_plan(queries, bank, dim, k, limit)
        kept = 8 * cut.splits * cut.queries * cut.slots
        parts = 12 * cut.rescuers * 16 * k
        held = 4 * cut.pitch * (cut.queries + cut.bank) + 20 * cut.queries + kept + parts
        assert held <= limit or (min(cut.queries, cut.bank) <= 128 and cut.splits == 1)
        assert k + 3 <= cut.slots <= 2 * (k + 3) and cut.pitch % 8 == 0
        assert 1 <= cut.queries <= queries and 1 <= cut.bank <= bank
        assert cut.queries * cut.bank * cut.pitch <= 1 << 40


@pytest.mark.parametrize("dim", [1, 128, 1 << 16])
def test_no_launch_takes_long_however_much_memory_there_is(dim):
    cut = make_plan(10**6, 10**8, dim, 9, 1 << 40)
    assert (1 << 36) <= cut.queries * cut.bank * cut.pitch <= (1 << 40) and cut.queries >= 8192 - 128


def test_cuts_of_the_work_do_not_reach_the_neighbours(plans, monkeypatch):
    monkeypatch.setattr(plans_of, "_MOST_WORK", 150 * 250 * 24)
    monkeypatch.setattr(plans_of, "_MOST_CHUNK", 250 * 24)
    check(gaussian(300, 17, seed=1), gaussian(600, 17), 5)
    assert {(p.queries, p.bank) for p in plans} == {(256, 128)}


def test_the_second_try_begins_with_nothing_held(monkeypatch):
    # Out of memory where crowded queries are settled: all buffers of the first try are there by then.
    query, bank, held = gaussian(40, 9), gaussian(6, 9).repeat(20, 1), []
    allocate, rescue = host.CudaSearch._allocate, host.CudaSearch._rescue

    def remembered(self, plan):
        assert not self.buffers and all(gone() is None for gone in held)
        allocate(self, plan)
        held.extend(weakref.ref(buffer) for buffer in self.buffers.values())

    def scarce(self, plan, piece, crowded):
        if len(held) == 1:
            raise torch.OutOfMemoryError("there is no more, says the test")
        rescue(self, plan, piece, crowded)

    monkeypatch.setattr(host.CudaSearch, "_allocate", remembered)
    monkeypatch.setattr(host.CudaSearch, "_rescue", scarce)
    check(query, bank, 3, EXACT[:1], memory_limit=4 << 20)
    assert len(held) == 2


def test_kernels_are_loaded_before_anything_is_captured(monkeypatch):
    loaded, capturing = [], []
    monkeypatch.setattr(host, "load_search", loaded.append)
    monkeypatch.setattr(searching, "captured", lambda device: bool(capturing))
    x = gaussian(20, 4).to(DEVICE)
    knn(x, x, 1, backend="cuda")
    capturing.append(True)
    knn(x, x, 1, backend="cuda")
    assert loaded == [x.device]


def test_all_kernels_of_a_search_are_loaded():
    module, sources = library(torch.device(DEVICE)), Path(__file__).resolve().parents[2] / "csrc" / "cuda"
    module.knn_load(0 if DEVICE == "cuda" else -1)
    if not sources.is_dir():
        pytest.skip("installed without csrc/")
    for name in ("frame", "search", "neighbours", "rescue"):
        text = (sources / f"{name}.cu").read_text()
        kernels = set(re.findall(r"__global__ void\s+(?:__launch_bounds__\([^\n]*?\)\s*)?(\w+)\(", text))
        assert len(kernels) == text.count("__global__") > 0
        assert kernels == set(re.findall(r"PCF_LOAD\((\w+)", text))
        variants = {v for v in re.findall(r"PCF_LAUNCH\((\w+<\w+>)", text) if "<MODE>" not in v}
        assert variants <= set(re.findall(r"PCF_LOAD\((\w+<\w+>)\)", text))
        if name == "search":
            launched = re.findall(r"launch_search<(Mode::\w+)>", text)
            assert launched == re.findall(r"PCF_LOAD\(search_kernel<(Mode::\w+)>\)", text) and len(launched) == 4


@pytest.mark.parametrize("precision", EXACT)
def test_unchecked_rows_give_valid_row_numbers(precision, monkeypatch):
    # What a captured graph does, in which nothing is looked at by the host.
    monkeypatch.setattr(searching, "captured", lambda device: True)
    query, bank = gaussian(20, 4).to(DEVICE), gaussian(150, 4, seed=1).to(DEVICE)
    bank[40:90] = bank[2]
    query[:4] = bank[2] * 1.001
    expected = knn_reference(query, bank, 3)
    distance, rows = knn(query, bank, 3, backend="cuda", precision=precision)
    assert torch.equal(rows, expected[1]) and torch.equal(distance, expected[0])
    for broken in (torch.nan, torch.inf, 3e38):
        query[3, 1] = broken
        for value in (torch.nan, torch.inf, -3e38):
            for first in (7, 0):
                bank[first:] = value
                rows = knn(query, bank, 3, backend="cuda", precision=precision)[1]
                assert bool(((rows >= 0) & (rows < 150)).all())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"k": 0}, "k must lie in 1..30, got 0"), ({"k": 31}, "k must lie in 1..30, got 31"),
        ({"slots": 1}, "slots must lie in 2..128, got 1"), ({"pitch": 0}, "pitch must lie in 5.."),
        ({"pitch": 12}, "pitch must be a multiple of 8"),
        ({"mode": "ffma"}, "mode must be ieee, tf32x3 or, for float16 and bfloat16 rows, half, got ffma"),
        ({"mode": "half"}, "for float16 and bfloat16 rows, half, got half"),
        ({"bank_in_place": True}, "the bank cannot be read in place"),
        ({"chunk": 0}, "chunk must lie in 1..1073741824, got 0"), ({"splits": 0}, "splits must lie in 1.."),
        ({"packed": (0, "float32", 32)}, "an address is null"),
        ({"packed_bank": (72, "float32", 240)}, "packed rows must begin at a multiple of 16 bytes"),
        ({"kept": (4, "int64", 32)}, "an address is not aligned for its type"),
        ({"kept": (64, "float64", 32)}, "kept must be int64, got float64"),
        ({"part_row": (64, "int32", 31)}, "part_row must have at least 32 elements, got 31"),
        ({"surplus": (64, "int32", 30)}, "arguments that it does not know"),
    ],
)  # fmt: skip
def test_the_module_refuses_what_makes_no_sense(wrong, message):
    # Nothing is launched: addresses are only looked at.
    module, bank = library(torch.device(DEVICE)), gaussian(30, 5).to(DEVICE)
    options = {**BUFFERS, **SIZES, "mode": "ieee", "bank": describe(bank), "device": 0}
    search = module.KnnSearch(**options)
    for query in (bank[:0], bank[:5], bank[:3, :4]):
        with pytest.raises(ValueError, match=r"query rows must lie in 1..4, got [05]|must have equal width"):
            search.some(describe(query), 64, 64, packed_already=False, stream=0)
    with pytest.raises(ValueError, match=message):
        module.KnnSearch(**{**options, **wrong})
    with pytest.raises(ValueError, match="only a whole bank can be packed already"):
        module.KnnSearch(**{**options, "chunk": 29}).some(describe(bank[:3]), 64, 64, packed_already=True, stream=0)
