"""Greedy by alpha * distance + gain: the picks of the plain float64 loop, on every engine."""

from __future__ import annotations

import math

import pytest
import torch

from patchcore_fast.kernels import additive_greedy, k_center_greedy
from patchcore_fast.kernels.kcenter import additive
from patchcore_fast.kernels.kcenter.reference import additive_greedy_reference

from .cases import awkward, gaussian, integers
from .engines import BACKENDS, CUDA, Engine, once

ENGINES = [*(Engine(name) for name in BACKENDS), *CUDA]
SIZES = {"usual": (256, 1024, 8192), "tiny": (3, 5, 20), "one": (1, 1, 1)}


@pytest.fixture(params=ENGINES, ids=str)
def on(request):
    return request.param


@pytest.fixture(params=SIZES)
def sizes(request, monkeypatch):
    for name, value in zip(("_LEAST", "_USUAL", "_MOST"), SIZES[request.param], strict=True):
        monkeypatch.setattr(additive, name, value)
    return request.param


def gains(n: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    return {
        "none": torch.zeros(n),
        "negative": -3 * torch.rand(n, generator=g),
        "ties": torch.randint(-2, 3, (n,), generator=g).double(),
        "large": torch.randn(n, generator=g) * 1e3,
    }


def check(on, x, k, gain, key=None, **options):
    def reference():
        return additive_greedy_reference(x, k, gain, **options)

    indices, radii = reference() if key is None else once((*key, k), reference)
    given = {name: v.to(on.device) if isinstance(v, torch.Tensor) else v for name, v in options.items()}
    found = additive_greedy(x.to(on.device), k, gain.to(on.device), backend=on.backend, **given)
    assert found.indices.tolist() == indices.tolist()
    assert torch.equal(found.radii.cpu(), radii) and found.indices.unique().numel() == k
    return found


@pytest.mark.parametrize("alpha", [0, 0.25, 1.0, 37.0])
@pytest.mark.parametrize("gain", gains(1))
def test_grid_features_full_of_ties_equal_the_loop(gain, alpha, on, sizes):
    x = integers(160, 3)
    for k in (1, 40, 160):
        check(on, x, k, gains(160)[gain], ("additive", gain, alpha), alpha=alpha)


@pytest.mark.parametrize("name", awkward())
def test_awkward_features_equal_the_loop(name, on, monkeypatch):
    x = awkward()[name]
    k = min(24, len(x))
    for sizes in ("usual", "tiny"):
        for what, value in zip(("_LEAST", "_USUAL", "_MOST"), SIZES[sizes], strict=True):
            monkeypatch.setattr(additive, what, value)
        check(on, x, k, gains(len(x))["negative"], ("additive awkward", name), alpha=0.5)


def test_the_batched_run_goes_through_many_picks_in_few_passes(on):
    x, gain = gaussian(3000, 16), torch.rand(3000, generator=torch.Generator().manual_seed(1))
    found = check(on, x, 300, gain, ("additive passes",))
    assert 1 <= found.passes <= 8 and 0 < found.distances <= 3000 * 300


def test_without_gain_it_is_k_center(on):
    x = integers(200, 8)
    ours = additive_greedy(x.to(on.device), 60, torch.zeros(200, device=on.device), alpha=2.0, start=7)
    assert torch.equal(ours.indices, k_center_greedy(x.to(on.device), 60, start=7).indices)


def test_without_distance_it_is_the_largest_gains(on, sizes):
    gain = torch.randint(-3, 4, (300,), generator=torch.Generator().manual_seed(2)).float()
    found = check(on, gaussian(300, 4), 300, gain, alpha=0.0)
    assert found.indices.tolist() == gain.argsort(descending=True, stable=True).tolist()


@pytest.mark.parametrize("n", [1, 2, 50])
def test_rows_that_are_all_equal_go_by_gain_then_by_number(n, on, sizes):
    gain = torch.arange(n).remainder(3).neg().float()
    found = check(on, torch.full((n, 3), 0.3), n, gain)
    assert found.indices.tolist() == gain.argsort(descending=True, stable=True).tolist()
    assert found.radii.tolist() == [math.inf] + [0.0] * (n - 1)


def test_keys_that_overflow_are_ties(on, sizes):
    x = integers(60, 3).double() * 1e100
    check(on, x, 60, gains(60)["ties"], alpha=1e300)
    check(on, x, 60, gains(60)["ties"] * 5e307, alpha=1e-320)


def test_copies_of_few_rows(on, sizes):
    x = integers(6, 4).repeat(40, 1)
    check(on, x, 60, gains(240)["ties"], ("additive copies",), alpha=0.1)


def test_start_and_rows_selected_before(on, sizes):
    x, gain = integers(150, 5), gains(150)["ties"]
    check(on, x, 30, gain, start=149)
    check(on, x, 30, gain, selected=torch.tensor([5, 5, 70]))
    check(on, x, 30, gain, selected=torch.tensor([5, 70]), start=3)
    check(on, x, 148, gain, selected=torch.tensor([5, 70]))
    whole = additive_greedy(x.to(on.device), 30, gain.to(on.device))
    rest = additive_greedy(x.to(on.device), 20, gain.to(on.device), selected=whole.indices[:10])
    assert torch.equal(rest.indices, whole.indices[10:]) and torch.equal(rest.radii, whole.radii[10:])


@pytest.mark.parametrize("seed", range(3))
def test_rows_in_another_order_are_the_same_picks(seed, on):
    """Distances and gains without ties: the order of the rows then plays no part."""
    x = gaussian(400, 12, seed)
    gain = torch.rand(400, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(seed + 9))
    plain = additive_greedy(x.to(on.device), 50, gain.to(on.device)).indices.cpu()
    mixed = additive_greedy(x[order].to(on.device), 50, gain[order].to(on.device)).indices.cpu()
    assert torch.equal(order[mixed], plain)


def test_progress_ends_at_k_and_may_end_the_run():
    told = []
    additive_greedy(gaussian(500, 4), 90, torch.zeros(500), progress=lambda *made: told.append(made))
    assert told[-1] == (90, 90) and [a for a, _ in told] == sorted(a for a, _ in told)
    told.clear()
    additive_greedy(gaussian(5, 4), 1, torch.zeros(5), progress=lambda *made: told.append(made))
    assert told == [(1, 1)]

    def stop(made, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        additive_greedy(gaussian(500, 4), 90, torch.zeros(500), progress=stop)


X, G = gaussian(20, 3), torch.zeros(20)
BAD = {
    "features": ((X.numpy(), 2, G), {}, TypeError, "features must be a torch.Tensor"),
    "rows": ((X.index_fill(0, torch.tensor([4]), torch.nan), 2, G), {}, ValueError, "1 of 20 rows are not finite"),
    "gain list": ((X, 2, [0.0] * 20), {}, TypeError, r"gain must be a torch.Tensor \[20\], got list"),
    "gain type": ((X, 2, G.long()), {}, TypeError, "gain must be a floating tensor, got torch.int64"),
    "gain shape": ((X, 2, G[1:]), {}, ValueError, r"gain must have shape \(20,\), one value a row, got \(19,\)"),
    "gain nan": ((X, 2, G.index_fill(0, torch.tensor([6]), torch.nan)), {}, ValueError, "the first at 6"),
    "gain inf": ((X, 2, G - torch.inf), {}, ValueError, "20 of 20 values are not"),
    "alpha": ((X, 2, G), {"alpha": -1}, ValueError, "alpha must be >= 0 and finite, got -1"),
    "alpha nan": ((X, 2, G), {"alpha": math.nan}, ValueError, "alpha must be >= 0 and finite, got nan"),
    "alpha type": ((X, 2, G), {"alpha": "1"}, TypeError, "alpha must be a number, got '1'"),
    "k": ((X, 21, G), {}, ValueError, "k must lie in 1..20"),
    "k less": ((X, 20, G), {"selected": [1]}, ValueError, r"k must lie in 1..19 \(N = 20, already selected = 1\)"),
    "start": ((X, 2, G), {"start": 3, "selected": [3]}, ValueError, "start = 3 is among the rows in selected"),
    "progress": ((X, 2, G), {"progress": 1}, TypeError, "progress must be callable, got int"),
    "backend": ((X, 2, G), {"backend": "best"}, ValueError, "backend must be one of .*, got 'best'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what):
    args, options, error, message = BAD[what]
    with pytest.raises(error, match=f"additive_greedy: .*{message}"):
        additive_greedy(*args, **options)


def test_arguments_are_not_written_to():
    x, gain = gaussian(100, 4), torch.rand(100, dtype=torch.float64)
    kept = x.clone(), gain.clone()
    additive_greedy(x, 20, gain, selected=[4])
    assert torch.equal(x, kept[0]) and torch.equal(gain, kept[1])
