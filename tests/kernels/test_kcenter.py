from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchcore_fast.kernels import Tuning, k_center_greedy
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.tuning import PRUNE

from .cases import awkward, gaussian, integers
from .engines import ENGINES, once

thorough = pytest.mark.thorough


def check(engine, features, k, *tunings, key=None, most=None, **kwargs):
    """Indices and radii equal the plain float64 algorithm's, bit for bit, with every tuning; `most`: its picks."""
    features = features.to(engine.device)
    kwargs = {name: v.to(engine.device) if isinstance(v, torch.Tensor) else v for name, v in kwargs.items()}

    def reference():
        return k_center_greedy_reference(features, most or k, **kwargs)

    indices, radii = (a[:k] for a in (reference() if key is None else once((*key, engine.device), reference)))
    for tuning in tunings or (None,):
        result = k_center_greedy(features, k, tuning=tuning, backend=engine.backend, **kwargs)
        assert result.indices.tolist() == indices.tolist(), tuning
        assert torch.equal(result.radii.cpu(), radii), tuning
        assert result.indices.dtype == torch.int64 and result.radii.dtype == torch.float32


SIZES = [(n, d) for n in (1, 2, 63, 500, 3000) for d in (1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 300, 1024)]


@pytest.mark.parametrize(("n", "d"), [pytest.param(*s, marks=[thorough] * (min(s) >= 300)) for s in SIZES])
def test_integer_features_equal_the_reference(n, d, engine, threads):
    x = integers(n, d)
    threads(1 + (n + d) % 3 if engine.backend == "native" else 2)
    most = n if d < 31 or n < 3000 else 200
    for k in sorted({1, (most + 1) // 2, most} if n < 3000 else {1, most}):
        check(engine, x, k, key=("integers", n, d), most=most)


TUNINGS = [Tuning(), Tuning(batch=1), Tuning(batch=7, block=5), Tuning(lazy=False)]
PRUNED = [
    Tuning(batch=20, prune="auto"),
    *(Tuning(batch=b, prune=p) for p in ("triangle", "partial") for b in (20, 70)),
]


@pytest.mark.parametrize("tunings", [TUNINGS[::2], pytest.param(TUNINGS[1::2], marks=thorough)], ids=["usual", "slow"])
@pytest.mark.parametrize("name", awkward())
def test_awkward_features_equal_the_reference(name, tunings, engine, threads):
    x = awkward()[name]
    for count in (1, 3) if engine.backend == "native" else (2,):
        threads(count)
        check(engine, x, x.shape[0], *tunings, key=("awkward", name))


PRUNED_USUALLY = ("gaussian", "duplicates", "mixed sizes", "two far rows", "float16", "quantised")


@pytest.mark.parametrize("name", [n if n in PRUNED_USUALLY else pytest.param(n, marks=thorough) for n in awkward()])
def test_pruning_does_not_reach_the_picks(name, native_engine, threads):
    x = awkward()[name]
    threads(2)
    check(native_engine, x, x.shape[0], *PRUNED, key=("awkward", name))
    # Wide, with what directions and triangles live on: a few axes of large spread, and a little of all others.
    few = x.double().clamp(-1e6, 1e6).float()[:, :3] * 4
    g = torch.Generator().manual_seed(6)
    wide = torch.nn.functional.pad(few, (0, 80 - few.shape[1])) + 0.01 * torch.randn(len(x), 80, generator=g)
    check(native_engine, wide, x.shape[0] - 1, *PRUNED, key=("awkward wide", name))


def options(x: torch.Tensor) -> dict:
    n, g = x.shape[0], torch.Generator().manual_seed(5)
    weights = torch.rand(n, generator=g)
    weights[::7] = 0
    chosen = {
        "weights": weights,
        "initial_min_dist": torch.rand(n, generator=g) * 4,
        "selected": torch.randperm(n, generator=g)[: n // 4],
    }
    chosen["initial_min_dist"][5] = torch.inf
    return chosen | {"start": int((~torch.isin(torch.arange(n), chosen["selected"])).nonzero()[3])}


ONE = [pytest.param(kind, marks=thorough) for kind in ("weights", "initial_min_dist", "selected", "start")]


@pytest.mark.parametrize("kind", [*ONE, "all"])
@pytest.mark.parametrize("name", awkward())
def test_options_equal_the_reference(name, kind, engine, threads):
    x = awkward()[name]
    chosen = options(x) if kind == "all" else {kind: options(x)[kind]}
    threads(2)
    k = x.shape[0] - len(chosen.get("selected", ()))
    tunings = [
        Tuning(),
        Tuning(batch=9, block=4),
        Tuning(batch=30, prune="triangle"),
        Tuning(batch=30, prune="partial"),
    ]
    tunings = tunings if engine.backend == "native" else tunings[:2]
    check(engine, x, k, *tunings, key=("options", name, kind), **chosen)


@pytest.mark.parametrize("n", [7, 8, 9, 15, 16, 17, 31, 32, 33, 65])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_sizes_around_the_lanes(n, dtype, engine, threads):
    threads(3)
    x = (gaussian(n, 20) * 2).to(dtype)
    check(engine, x, n, Tuning(batch=n, block=n), Tuning(batch=8, block=6), key=("sizes", n, dtype))


PICKS = 300  # of 31,360 rows: the reference goes over them once a pick


@pytest.fixture(scope="module")
def real_picks(real_features):
    return k_center_greedy_reference(real_features, PICKS, start=0)


@pytest.mark.parametrize("lazy", [True, pytest.param(False, marks=pytest.mark.thorough)], ids=["lazy", "eager"])
@pytest.mark.parametrize("batch", [1, pytest.param(32, marks=pytest.mark.thorough), 256, 4096])
def test_real_features_equal_the_reference(real_features, real_picks, threads, batch, lazy, engine):
    x = real_features.to(engine.device)
    k = 100 if batch == 1 else PICKS  # one pick a pass: the plain algorithm's work
    for count in (1, 3) if engine.backend == "native" and batch > 1 else (2,):
        threads(count)
        result = k_center_greedy(x, k, start=0, tuning=Tuning(batch=batch, lazy=lazy), backend=engine.backend)
        assert result.indices.tolist() == real_picks[0][:k].tolist()
        assert torch.equal(result.radii.cpu(), real_picks[1][:k])


@pytest.mark.parametrize("prune", PRUNE)
def test_real_features_pruned(real_features, real_picks, threads, native_engine, prune):
    threads(2)
    result = k_center_greedy(real_features, PICKS, start=0, tuning=Tuning(batch=300, prune=prune), backend="native")
    assert result.indices.tolist() == real_picks[0].tolist()
    assert torch.equal(result.radii, real_picks[1])


def test_default_is_batched(real_features, engine):
    assert k_center_greedy(real_features.to(engine.device), 1500, backend=engine.backend).passes <= 40


@settings(max_examples=100, deadline=None)  # others in each run
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
    prune = data.draw(st.sampled_from(PRUNE))
    tuning = Tuning(batch=data.draw(st.integers(1, 50)), block=data.draw(st.integers(1, 9)), prune=prune)
    with data.draw(st.sampled_from(ENGINES)).forced() as engine:
        check(engine, x, k, tuning, **kwargs)
