"""What a caller has set around a call does not reach its answers, and is as it was afterwards."""

import logging
import threading

import pytest
import torch

from patchcore_fast.kernels import k_center_greedy, knn, knn_rarity, surroundings
from patchcore_fast.kernels.backends import native_backend
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.knn.reference import knn_rarity_reference, knn_reference
from patchcore_fast.kernels.surroundings import Undisturbed, undisturbed

from ..numeric_modes import set_to
from .engines import BACKENDS


def rows(n=300, d=40, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")


MODES = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "inference": torch.inference_mode,
    "default type float64": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "default type bfloat16": lambda: set_to(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": lambda: set_to(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "deterministic": lambda: set_to(torch.use_deterministic_algorithms, True, False),
    "matmul in bfloat16": lambda: set_to(torch.set_float32_matmul_precision, "medium", "highest"),
    "flush": lambda: set_to(torch.set_flush_denormal, True, False),
}


def answers(backend, x, bank):
    found = k_center_greedy(x, 60, start=3, backend=backend)
    return [found.indices, found.radii, *knn(x, bank, 3, backend=backend), knn_rarity(x, 2, backend=backend)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_modes_do_not_reach_the_answers(mode, backend):
    x, bank = rows(), rows(90, seed=1)
    wanted = answers(backend, x, bank)
    with MODES[mode]():
        found = answers(backend, x, bank)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_do_not_require_gradients(backend):
    x, bank = rows().requires_grad_(), rows(90, seed=1).requires_grad_()
    wanted = answers(backend, x.detach(), bank.detach())
    found = answers(backend, x, bank)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(found, wanted, strict=True))
    op = torch.ops.patchcore_fast.knn(x, bank, 2, backend)
    assert not op[0].requires_grad and torch.equal(op[0], wanted[2][:, :2])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size, dtype", [(1e-39, torch.float32), (1e-42, torch.float32), (3e-161, torch.float64)])
def test_subnormal_numbers_count_where_torch_flushes_them(backend, size, dtype, threads):
    threads(2)
    x = (rows(400, 40, seed=3).double() * size).to(dtype)
    picks = k_center_greedy_reference(x, 40, start=0)
    neighbours = knn_reference(x[:50], x, 3)
    rarity = knn_rarity_reference(x[:90], 2, torch.arange(60))
    with MODES["flush"]():
        found = k_center_greedy(x, 40, start=0, backend=backend)
        near = knn(x[:50], x, 3, backend=backend)
        rare = knn_rarity(x[:90], 2, anchors=torch.arange(60), backend=backend)
        assert surroundings._flushes()  # the caller's setting is back
    assert not surroundings._flushes()
    assert torch.equal(found.indices, picks[0]) and torch.equal(found.radii, picks[1])
    assert torch.equal(near[1], neighbours[1]) and torch.equal(near[0], neighbours[0])
    assert torch.equal(rare, rarity)


def test_one_thread_where_the_pool_flushes(monkeypatch, threads):
    threads(2)
    seen = []
    for keeps in (True, False):
        monkeypatch.setattr(surroundings, "_pool_keeps_subnormals", lambda keeps=keeps: keeps)
        with MODES["flush"](), Undisturbed():
            seen.append((torch.get_num_threads(), surroundings.engine_threads()))
    count = surroundings.engine_threads()
    assert seen == [(count, count), (1, count)] and torch.get_num_threads() == 2


def test_torch_gets_no_more_threads_than_processors(monkeypatch, threads):
    threads(16)
    monkeypatch.setattr(surroundings, "usable_processors", lambda: 3)
    seen = []

    @undisturbed
    def inner():
        seen.append((torch.get_num_threads(), surroundings.engine_threads()))
        raise KeyError

    with Undisturbed(), pytest.raises(KeyError):
        inner()
    assert seen == [(3, 3)] and torch.get_num_threads() == 16
    threads(2)
    with Undisturbed():
        assert torch.get_num_threads() == 2


def test_picks_with_more_threads_than_processors(threads):
    x = rows(3000, 96)
    wanted = k_center_greedy(x, 600)
    threads(16)
    assert torch.equal(k_center_greedy(x, 600).indices, wanted.indices) and torch.get_num_threads() == 16


def test_a_generator_is_undisturbed_from_step_to_step(threads):
    closed = []

    @undisturbed
    def steps(count):
        try:
            for _ in range(count):
                yield torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()
        finally:
            closed.append(count)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        for inside in steps(2):
            assert inside == (False, False)
            assert torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
        unfinished = steps(5)
        next(unfinished)
        unfinished.close()
    assert closed == [2, 5]


def test_switches_come_back_when_the_last_thread_leaves():
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with Undisturbed():
            inside.set()
            leave.wait(10)

    with MODES["matmul in bfloat16"]():
        other = threading.Thread(target=stay)
        other.start()
        inside.wait(10)
        with Undisturbed():
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        leave.set()
        other.join()
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert torch.get_float32_matmul_precision() == "medium"


def test_a_child_of_a_fork_is_told_once(monkeypatch, threads, caplog):
    threads(4)
    monkeypatch.setattr(surroundings, "usable_processors", lambda: 8)
    monkeypatch.setattr(surroundings, "_here", -1)  # as if this were a child
    monkeypatch.setattr(surroundings, "_inherited", 0)
    with caplog.at_level(logging.WARNING, logger="patchcore_fast"):
        for _ in range(2):
            with Undisturbed():
                assert torch.get_num_threads() == 1 and surroundings.engine_threads() == 4
    assert torch.get_num_threads() == 1 and len(caplog.records) == 1 and "forked" in caplog.text


@pytest.mark.parametrize("make", [
    lambda: rows(900, 300), lambda: torch.ones(50, 200), lambda: rows(900, 4) @ rows(4, 200),
    lambda: rows(900, 200) * torch.logspace(0, -8, 200), lambda: rows(900, 200) * 1e30, lambda: rows(5, 70),
], ids=["plain", "equal", "low rank", "decay", "huge", "few"])  # fmt: skip
def test_leading_directions_are_orthonormal(make):
    x = make()
    found = native_backend.leading_directions(x)
    if found is None:
        assert bool((x == x[0]).all()) or float(x.max()) > 1e25
        return
    assert found.shape[0] in native_backend._DIRECTIONS and 2 * found.shape[0] <= x.shape[1]
    product = found.double() @ found.double().t()
    assert float((product - torch.eye(len(found), dtype=torch.float64)).norm()) < 1e-5
    spread = (x - x.mean(0)).double()
    held = float((spread @ found.double().t()).square().sum() / spread.square().sum())
    best = torch.linalg.svdvals(spread).square()
    assert held >= 0.9 * float(best[: len(found)].sum() / best.sum())
