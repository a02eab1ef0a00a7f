"""What k-center greedy does besides picking: passes, progress, Ctrl-C, global state, and large runs."""

import signal
import threading

import pytest
import torch

from patchcore_fast.kernels import Tuning, k_center_greedy, knn
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall

from .cases import gaussian
from .engines import BACKENDS

backends = pytest.mark.parametrize("backend", BACKENDS)


def test_large_selection_is_a_greedy_trace(engine):
    x = gaussian(30_000, 32).to(engine.device)
    result = k_center_greedy(x, 1500, backend=engine.backend)
    assert greedy_shortfall(x, result.indices) <= 1e-5
    assert bool((result.radii.diff() <= 0).all()) and result.radii[0] == torch.inf


def test_shortfall_sees_a_wrong_pick():
    x = gaussian(600, 16)
    wrong = k_center_greedy(x, 90).indices
    nearest = torch.cdist(x, x[wrong[:50]]).min(1).values
    shortfall = 1 - nearest.topk(300).values[-1] / nearest.max()
    wrong[50] = nearest.topk(300).indices[-1]  # in the middle of a block of the check
    assert greedy_shortfall(x, wrong) == pytest.approx(float(shortfall), rel=1e-4)


@backends
def test_warm_start_continues_a_run(backend):
    x = gaussian(700, 16)
    whole = k_center_greedy(x, 80, backend=backend)
    rest = k_center_greedy(x, 50, selected=whole.indices[:30].tolist(), backend=backend)
    assert rest.indices.tolist() == whole.indices[30:].tolist()
    assert torch.equal(rest.radii, whole.radii[30:])


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_distances_below_the_blur_are_settled_together(backend):
    """A pass that settled its own candidates only would find that any other row may be farther, 750 times."""
    x = torch.cat([torch.ones(1, 24), gaussian(1500, 24) * 1e-20])
    found = k_center_greedy(x, 60, start=0, tuning=Tuning(batch=2, block=2), backend=backend)
    assert found.indices.tolist() == k_center_greedy_reference(x, 60, start=0)[0].tolist()
    assert found.passes < 200


def test_generator_draws_the_start():
    x = gaussian(100, 4)
    starts = {int(k_center_greedy(x, 1, generator=torch.Generator().manual_seed(s)).indices) for s in range(20)}
    assert len(starts) > 5
    again = [k_center_greedy(x, 9, generator=torch.Generator().manual_seed(3)).indices.tolist() for _ in range(2)]
    assert again[0] == again[1]


@backends
def test_global_random_state_is_untouched(backend):
    before = torch.get_rng_state()
    k_center_greedy(gaussian(100, 4), 10, backend=backend)
    assert torch.equal(before, torch.get_rng_state())


@backends
@pytest.mark.parametrize("setting", ["medium", "high"])
def test_reduced_matmul_precision_does_not_reach_the_picks(setting, backend):
    # 512 columns: wide enough for the CPU library to take its bfloat16 path when allowed.
    x = gaussian(2000, 512)
    picks = k_center_greedy(x, 300, backend=backend).indices
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        assert torch.equal(k_center_greedy(x, 300, backend=backend).indices, picks)
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)


@backends
def test_threads_share_the_precision_switch(backend):
    # One run starts and ends inside another: neither may see the other's restored switch.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    inside, switches = threading.Event(), []

    def short():
        inside.wait(10)
        knn(gaussian(30, 8), gaussian(40, 8), 1, backend=backend)

    thread = threading.Thread(target=short)

    def at_first_pass(done, total):
        if not inside.is_set():
            inside.set()
            thread.join()
            switches.append((torch.ones(512, 512) * (1 + 2**-12) @ torch.eye(512))[0, 0])

    try:
        thread.start()
        k_center_greedy(gaussian(500, 8), 50, progress=at_first_pass, backend=backend)
        assert float(switches[0]) == 1 + 2**-12  # bfloat16 would round it to 1
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("distinct, passes", [(1, 4), (64, 100)], ids=["constant", "64 colours"])
def test_more_picks_than_distinct_rows_takes_few_passes(distinct, passes, engine):
    x = torch.rand(distinct, 16, generator=torch.Generator().manual_seed(0))
    x = x[torch.randint(distinct, (100_000,), generator=torch.Generator().manual_seed(1))]
    assert k_center_greedy(x.to(engine.device), 100, backend=engine.backend).passes <= passes


def test_small_integer_types_do_not_wrap():
    x = gaussian(300, 4)
    expected = k_center_greedy(x, 5, selected=[50]).indices
    for dtype in (torch.int8, torch.uint8, torch.int16):
        assert torch.equal(k_center_greedy(x, 5, selected=torch.tensor([50], dtype=dtype)).indices, expected)


@backends
def test_autocast_and_grad_do_not_reach_the_picks(backend):
    x = gaussian(500, 64)
    picks = k_center_greedy(x, 100, backend=backend).indices
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = k_center_greedy(x.clone().requires_grad_(), 100, backend=backend)
    assert torch.equal(result.indices, picks) and not result.radii.requires_grad


def test_arguments_are_not_changed(engine):
    given = [gaussian(300, 8), torch.full((300,), 2.0, dtype=torch.float64), torch.ones(300, dtype=torch.float64)]
    given = [v.to(engine.device) for v in given]
    copies = [v.clone() for v in given]
    k_center_greedy(given[0], 200, initial_min_dist=given[1], weights=given[2], backend=engine.backend)
    assert all(torch.equal(v, copy) for v, copy in zip(given, copies, strict=True))


@backends
def test_view_of_a_negated_tensor(backend):
    z = torch.complex(gaussian(200, 8), gaussian(200, 8, seed=1))
    x = z.conj().imag  # float32, and its memory holds the opposite
    assert x.is_neg()
    other = gaussian(200, 8, seed=1)[:50]
    initial = torch.linspace(1, 3, 200)
    picks = k_center_greedy(x, 60, backend=backend, initial_min_dist=initial)
    assert torch.equal(picks.indices, k_center_greedy(x.resolve_neg().clone(), 60, initial_min_dist=initial).indices)
    assert torch.equal(knn(other, x, 3, backend=backend)[1], knn(other, x.resolve_neg().clone(), 3)[1])


@backends
def test_progress_is_called_after_every_pass(backend):
    calls, single = [], []
    result = k_center_greedy(
        gaussian(2000, 8), 500, progress=lambda *c: calls.append(c), tuning=Tuning(batch=64), backend=backend
    )
    done = [d for d, _ in calls]
    k_center_greedy(gaussian(20, 2), 1, start=3, progress=lambda *c: single.append(c), backend=backend)
    assert single == [(1, 1)]
    assert len(calls) == result.passes and done == sorted(done) and calls[-1] == (500, 500)


@backends
def test_ctrl_c_leaves_at_the_next_pass(backend):
    calls = []

    def interrupt(done, total):
        calls.append(done)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        k_center_greedy(gaussian(2000, 8), 1500, progress=interrupt, tuning=Tuning(batch=32), backend=backend)
    assert len(calls) == 3
