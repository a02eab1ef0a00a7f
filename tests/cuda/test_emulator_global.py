"""The emulator finds mistakes in global memory (csrc/cuda/emulator/wrong_global.cu), and none in our kernels."""

import dataclasses
import types

import pytest
import torch

from patchcore_fast.kernels import Tuning
from patchcore_fast.kernels.backends.cuda_kernels import knn as host
from patchcore_fast.kernels.backends.device import knn as searching

from ..kernels.cases import gaussian
from . import kcenter_runs, knn_runs
from .kcenter_runs import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="the kernels run on a card here, not on the emulator")
BLOCKS, THREADS = 3, 64
TOTAL = BLOCKS * THREADS
ORDER = "with nothing that orders them"
BEYOND = "goes beyond the arrays in global memory"


@pytest.fixture
def watched(emulated, monkeypatch):
    """Global memory is watched; every tensor whose address is taken is known, storages whole. The emulated module."""
    address_of = torch.Tensor.data_ptr

    def noted(tensor):
        memory = tensor.untyped_storage()
        # A search's workspace is one tensor of int64 for arrays of all types, halves among them.
        element = 2 if tensor.dtype == torch.int64 else min(tensor.element_size(), 4)
        emulated.add_global(memory.data_ptr(), memory.nbytes(), element)
        return address_of(tensor)

    monkeypatch.setattr(torch.Tensor, "data_ptr", noted)
    emulated.watch_global(True)
    yield emulated
    emulated.watch_global(False)


def run(emulated, name, how, blocks=BLOCKS):
    """A kernel's output; its memory has room to work in, and two counters."""
    out = torch.zeros(2 * blocks * THREADS + 2, dtype=torch.int32)
    emulated.test_global(name, blocks, THREADS, how, out.data_ptr())
    return out[: blocks * THREADS].tolist()


NUMBERS = list(range(TOTAL))
SUM = [sum(NUMBERS)] * THREADS + [0] * (TOTAL - THREADS)
NEXT = [number // THREADS * THREADS + (number + 1) % THREADS for number in NUMBERS]
NEXT_OF_WARP = [number // 32 * 32 + (number + 1) % 32 for number in NUMBERS]
RIGHT = [
    ("ticket", 0, SUM),  # every thread fences
    ("ticket", 4, SUM),  # one thread fences, for all that a barrier has brought it
    ("ticket", 5, SUM),  # atomics instead of writes
    ("handing", 1, NEXT),
    ("handing", 2, NEXT_OF_WARP),
    ("queue", 0, NUMBERS),
    ("queue", 2, NUMBERS),
    ("places", 0, NUMBERS),
    ("outside", 0, NUMBERS),
]
# name, how, what the message says
WRONG = [
    ("ticket", 1, rf"reads global memory that another thread writes, {ORDER}: 4 bytes at \d+ of an array of 1544"),
    ("ticket", 2, ORDER), ("ticket", 3, ORDER), ("ticket", 6, ORDER),
    ("handing", 0, rf"{ORDER}: .*; the other is thread \d+ of block \d"), ("queue", 1, ORDER),
    ("places", 1, f"writes global memory that another thread writes, {ORDER}"),
    ("places", 2, rf"(reads .* writes|writes .* reads), {ORDER}: .*; the other is thread \d+ of block \d"),
    ("outside", 1, f"{BEYOND}: 4 bytes at 1544 of an array of 1544"),
    ("outside", 2, f"{BEYOND}: 4 bytes at 1544 of an array of 1544"),
    ("outside", 3, f"thread 0 of block 0 {BEYOND}: 4 bytes at -?[0-9]+ of an array"), ("outside", 4, BEYOND),
]  # fmt: skip


@pytest.mark.parametrize(("name", "how", "expected"), RIGHT, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_right_runs_in_any_order(watched, every_seed, name, how, expected):
    for _ in every_seed():
        assert run(watched, name, how) == expected


@pytest.mark.parametrize(("name", "how", "message"), WRONG)
def test_what_is_wrong_is_found_in_any_order(watched, every_seed, name, how, message):
    for _ in every_seed():
        with pytest.raises(RuntimeError, match=message) as found:
            run(watched, name, how)
        said = str(found.value)
        assert f"in {name}_kernel" in said
        # The line, or how to ask for it where there is no addr2line.
        assert ("(wrong_global.cu:" in said and f", in {name}_kernel)" in said) or "(addr2line -Cfie" in said
    assert run(watched, "places", 0) == NUMBERS  # and the emulator goes on


def test_one_block_needs_no_fence(watched, every_seed):
    for _ in every_seed():
        for how in (0, 1, 2):
            assert run(watched, "ticket", how, blocks=1) == [sum(range(THREADS))] * THREADS


def test_nothing_is_looked_at_without_being_asked(emulated):
    assert run(emulated, "ticket", 1) == SUM
    assert run(emulated, "places", 2) == NUMBERS


ROWS = 2600  # three blocks of the kernels that look at all rows
KCENTER = {
    "plain": {},
    "weights": {"weights": torch.rand(ROWS, generator=torch.Generator().manual_seed(1)) + 0.5},
    "distances known": {"initial_min_dist": torch.full((ROWS,), 1.5)},
    "picks given": {"selected": torch.tensor([5, 6, 300])},
}


@pytest.mark.parametrize("options", KCENTER.values(), ids=KCENTER)
def test_k_center_has_none_of_these(watched, options):
    kcenter_runs.check(gaussian(ROWS, 6), 30, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_k_center_on_other_types(watched, dtype):
    # The last chunk of 40 columns of halves goes beyond a row of picks.
    kcenter_runs.check(gaussian(300, 40).to(dtype), 20, precisions=("float32", *kcenter_runs.EXACT))


@pytest.mark.parametrize("tuning", [Tuning(batch=40, block=32), Tuning(batch=20, block=16, lazy=False)])
def test_k_center_among_rows_that_are_nearly_equal(watched, tuning):
    kcenter_runs.check(gaussian(20, 12).repeat(9, 1) + 1e-4 * gaussian(180, 12, seed=1), 25, tuning)


# Many queries have a warp each in settling; of few each has four.
@pytest.mark.parametrize("queries", [20, 150])
@pytest.mark.parametrize("splits", [1, 3, 6])
def test_knn_has_none_of_these(watched, splits, queries, monkeypatch):
    made = searching.make_plan
    monkeypatch.setattr(searching, "make_plan", lambda *sizes: dataclasses.replace(made(*sizes), splits=splits))
    knn_runs.check(gaussian(queries, 24), gaussian(400, 24, seed=1), 5)


def test_a_search_in_pieces(watched, pieces):
    pieces(128)
    halves = gaussian(200, 10).half(), gaussian(300, 10, seed=1).half()
    knn_runs.check(*halves, 3, precisions=("float32", *knn_runs.EXACT))


# Up to 32 crowded queries equal rows stay in; a few share blocks, many have a block each.
@pytest.mark.parametrize("queries", [3, 50])
def test_a_search_with_crowded_queries(watched, rescued, queries):
    bank = gaussian(4, 8).repeat_interleave(80, 0) + 1000
    knn_runs.check(bank[:: len(bank) // queries][:queries].clone(), bank, 4)
    assert max(rescued) > 0


@pytest.fixture
def room():
    """Whose searches `rescued` counts."""
    return types.SimpleNamespace(host=host)
