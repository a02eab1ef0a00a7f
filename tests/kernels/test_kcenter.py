from __future__ import annotations

import signal
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore_fast.kernels import Tuning, k_center_greedy, knn
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall

from .cases import DEVICES, awkward, gaussian, integers


def check(features, k, tuning=None, **kwargs):
    """Indices and radii equal the plain float64 algorithm's."""
    result = k_center_greedy(features, k, tuning=tuning, **kwargs)
    indices, radii = k_center_greedy_reference(features, k, **kwargs)
    assert result.indices.tolist() == indices.tolist()
    assert torch.equal(result.radii.cpu(), radii)
    assert result.indices.dtype == torch.int64 and result.radii.dtype == torch.float32
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("d", [1, 3, 64, 128, 300])
@pytest.mark.parametrize("n", [1, 2, 63, 500, 5000])
def test_integer_features_equal_the_reference(n, d, device):
    x = integers(n, d).to(device)
    for k in sorted({1, (n + 1) // 2, n} if n < 5000 else {1, n}):
        check(x, k)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tuning", [Tuning(), Tuning(batch=1), Tuning(batch=7, block=5), Tuning(lazy=False)], ids=str)
@pytest.mark.parametrize("name", awkward())
def test_awkward_features_equal_the_reference(name, tuning, device):
    x = awkward()[name].to(device)
    check(x, x.shape[0], tuning)


@pytest.mark.parametrize("kind", ["weights", "initial", "selected", "start", "all"])
@pytest.mark.parametrize("name", ["gaussian", "quantised", "duplicates", "bfloat16"])
def test_options_equal_the_reference(name, kind):
    x = awkward()[name]
    n = x.shape[0]
    g = torch.Generator().manual_seed(5)
    weights = torch.rand(n, generator=g)
    weights[::7] = 0
    options = {
        "weights": weights,
        "initial_min_dist": torch.rand(n, generator=g) * 4,
        "selected": torch.randperm(n, generator=g)[: n // 4],
    }
    options["initial_min_dist"][5] = torch.inf
    options["start"] = int((~torch.isin(torch.arange(n), options["selected"])).nonzero()[3])
    names = {"initial": "initial_min_dist"}.get(kind, kind)
    chosen = options if kind == "all" else {names: options[names]}
    k = n - (n // 4 if "selected" in chosen else 0)
    for tuning in (Tuning(), Tuning(batch=9, block=4)):
        check(x, k, tuning, **chosen)


@pytest.fixture(scope="module")
def real_picks(real_features):
    return k_center_greedy_reference(real_features, 1500, start=0)


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
@pytest.mark.parametrize("count", [1, 2], ids=["1 thread", "2 threads"])
@pytest.mark.parametrize("batch", [1, 32, 256, 4096])
def test_real_features_equal_the_reference(real_features, real_picks, threads, batch, count, lazy):
    threads(count)
    result = k_center_greedy(real_features, 1500, start=0, tuning=Tuning(batch=batch, lazy=lazy))
    assert result.indices.tolist() == real_picks[0].tolist()
    assert torch.equal(result.radii, real_picks[1])


def test_default_is_batched(real_features):
    assert k_center_greedy(real_features, 1500).passes <= 40


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_features_equal_the_reference(data):
    n, d = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    unit = data.draw(st.sampled_from([1.0, 0.1, 1e-20, 1e20]))
    values = st.integers(-3, 3).map(float) if data.draw(st.booleans()) else st.floats(-3, 3, width=32)
    rows = data.draw(st.lists(st.lists(values, min_size=d, max_size=d), min_size=n, max_size=n))
    x = torch.tensor(rows, dtype=data.draw(st.sampled_from([torch.float32, torch.float64]))) * unit
    kwargs = {}
    if data.draw(st.booleans()):
        weight = st.sampled_from([0.0, 0.25, 1.0, 3.0])
        kwargs["weights"] = torch.tensor(data.draw(st.lists(weight, min_size=n, max_size=n)))
    if data.draw(st.booleans()):
        kwargs["selected"] = torch.tensor(sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))), dtype=int)
    k = data.draw(st.integers(1, n - len(kwargs.get("selected", []))))
    check(x, k, Tuning(batch=data.draw(st.integers(1, 50)), block=data.draw(st.integers(1, 9))), **kwargs)


def test_large_selection_is_a_greedy_trace():
    x = gaussian(60_000, 32)
    result = k_center_greedy(x, 2000)
    assert greedy_shortfall(x, result.indices) <= 1e-5
    assert bool((result.radii.diff() <= 0).all()) and result.radii[0] == torch.inf


def test_shortfall_sees_a_wrong_pick():
    x = gaussian(600, 16)
    wrong = k_center_greedy(x, 90).indices
    nearest = torch.cdist(x, x[wrong[:50]]).min(1).values
    shortfall = 1 - nearest.topk(300).values[-1] / nearest.max()
    wrong[50] = nearest.topk(300).indices[-1]  # in the middle of a block of the check
    assert greedy_shortfall(x, wrong) == pytest.approx(float(shortfall), rel=1e-4)


def test_warm_start_continues_a_run():
    x = gaussian(700, 16)
    whole = k_center_greedy(x, 80)
    rest = k_center_greedy(x, 50, selected=whole.indices[:30].tolist())
    assert rest.indices.tolist() == whole.indices[30:].tolist()
    assert torch.equal(rest.radii, whole.radii[30:])


def test_generator_draws_the_start():
    x = gaussian(100, 4)
    starts = {int(k_center_greedy(x, 1, generator=torch.Generator().manual_seed(s)).indices) for s in range(20)}
    assert len(starts) > 5
    again = [k_center_greedy(x, 9, generator=torch.Generator().manual_seed(3)).indices.tolist() for _ in range(2)]
    assert again[0] == again[1]


def test_global_random_state_is_untouched():
    before = torch.get_rng_state()
    k_center_greedy(gaussian(100, 4), 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("setting", ["medium", "high"])
def test_reduced_matmul_precision_does_not_reach_the_picks(setting):
    # 512 columns: wide enough for the CPU library to take its bfloat16 path when allowed.
    x = gaussian(2000, 512)
    picks = k_center_greedy(x, 300).indices
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        assert torch.equal(k_center_greedy(x, 300).indices, picks)
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)


def test_threads_share_the_precision_switch():
    # One run starts and ends inside another: neither may see the other's restored switch.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    inside, switches = threading.Event(), []

    def short():
        inside.wait(10)
        knn(gaussian(30, 8), gaussian(40, 8), 1)

    thread = threading.Thread(target=short)

    def at_first_pass(done, total):
        if not inside.is_set():
            inside.set()
            thread.join()
            switches.append((torch.ones(512, 512) * (1 + 2**-12) @ torch.eye(512))[0, 0])

    try:
        thread.start()
        k_center_greedy(gaussian(500, 8), 50, progress=at_first_pass)
        assert float(switches[0]) == 1 + 2**-12  # bfloat16 would round it to 1
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("distinct, passes", [(1, 4), (64, 100)], ids=["constant", "64 colours"])
def test_more_picks_than_distinct_rows_takes_few_passes(distinct, passes):
    x = torch.rand(distinct, 16, generator=torch.Generator().manual_seed(0))
    x = x[torch.randint(distinct, (100_000,), generator=torch.Generator().manual_seed(1))]
    assert k_center_greedy(x, 100).passes <= passes


def test_small_integer_types_do_not_wrap():
    x = gaussian(300, 4)
    expected = k_center_greedy(x, 5, selected=[50]).indices
    for dtype in (torch.int8, torch.uint8, torch.int16):
        assert torch.equal(k_center_greedy(x, 5, selected=torch.tensor([50], dtype=dtype)).indices, expected)


def test_autocast_and_grad_do_not_reach_the_picks():
    x = gaussian(500, 64)
    picks = k_center_greedy(x, 100).indices
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = k_center_greedy(x.clone().requires_grad_(), 100)
    assert torch.equal(result.indices, picks) and not result.radii.requires_grad


def test_features_are_not_changed():
    x = gaussian(300, 8)
    copy = x.clone()
    k_center_greedy(x, 200, initial_min_dist=torch.full((300,), 2.0))
    assert torch.equal(x, copy)


def test_progress_is_called_after_every_pass():
    calls, single = [], []
    result = k_center_greedy(gaussian(2000, 8), 500, progress=lambda *c: calls.append(c), tuning=Tuning(batch=64))
    done = [d for d, _ in calls]
    k_center_greedy(gaussian(20, 2), 1, start=3, progress=lambda *c: single.append(c))
    assert single == [(1, 1)]
    assert len(calls) == result.passes and done == sorted(done) and calls[-1] == (500, 500)


def test_ctrl_c_leaves_at_the_next_pass():
    calls = []

    def interrupt(done, total):
        calls.append(done)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        k_center_greedy(gaussian(2000, 8), 1500, progress=interrupt, tuning=Tuning(batch=32))
    assert len(calls) == 3
