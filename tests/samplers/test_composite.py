"""The composite preset against its formulas in plain NumPy, index for index, on grids where distances are exact."""

import itertools

import numpy as np
import pytest
import torch

from patchcore_fast.samplers import ELFSCoresetSampler, GreedyCoresetSampler
from patchcore_fast.samplers.composite_signals import normalised
from patchcore_fast.scores import k_means

N, D, SHARE = 256, 4, 0.125
M = int(N * SHARE)
DEFAULTS = {
    "w_repr": 1.0, "w_density": 1.0, "w_unc": 1.0, "repr": "mean", "density": "rarity", "k_density": 4,
    "pool": "composite", "topk_pool_multiplier": 5.0, "min_pool": 0, "alpha": 0.0, "beta": 1.0, "clean": 0.0,
    "n_clusters": 8, "noise_T": 0,
}  # fmt: skip


def grid(seed=0, n=N):
    return np.random.RandomState(seed).randint(-4, 5, (n, D)).astype(np.float32)


def norm(v):  # [..., 4] -> [...]; the additions in the canonical order
    v = v * v
    return np.sqrt((v[..., 0] + v[..., 2]) + (v[..., 1] + v[..., 3]))


def scaled(signal):
    s = signal.astype(np.float32).astype(np.float64)
    ok = np.isfinite(s)
    low, high = s[ok].min(), s[ok].max()
    return np.where(ok, (s - low) / (high - low), 0.0) if high > low else np.zeros_like(s)


def signals(x, o):
    """Raw signals, by the formulas of docs/elfs.md; every row is an anchor."""
    x64 = x.astype(np.float64)
    if o["repr"] == "mean":
        r = norm(x64 - x64.mean(0))
    else:
        centres = k_means(x, o["n_clusters"], seed=0).centers.numpy().astype(np.float64)
        r = norm(x64[:, None] - centres).min(1)
    between = norm(x64[:, None] - x64)
    np.fill_diagonal(between, np.inf)
    d = np.sort(between, 1)[:, : o["k_density"]].astype(np.float32).astype(np.float64).sum(1) / o["k_density"]
    if o["density"] == "dense":
        d = d.astype(np.float32)
        d = np.float32(1) / np.maximum(d, d[d > 0].min() if d.any() else np.float32(1))
    out = [r, d]
    if o["noise_T"]:
        generator = torch.Generator().manual_seed(0)
        u = np.zeros(len(x))
        for _ in range(o["noise_T"]):
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).numpy()
            u += norm((x64 + o["noise_std"] * noise) - x64)
        out.append(u / o["noise_T"])
    return out


def first_best(key):
    return int(np.flatnonzero(key == key.max())[0])


def far_start(x):
    wide = len(x) * x.astype(np.float64) - x.astype(np.float64).sum(0)
    return first_best((wide**2).sum(1))


def greedy(x, count, kept, allowed, composite, o):
    """Rows picked one by one: plain k-center, or the additive key; `allowed` [N] bool are those to pick from."""
    x64 = x.astype(np.float64)
    squared = np.full(len(x), np.inf)
    for row in kept:
        squared = np.minimum(squared, ((x64 - x64[row]) ** 2).sum(1))
    rows = np.flatnonzero(allowed | np.isin(np.arange(len(x)), kept))
    taken = list(kept)
    for step in range(count):
        if o["alpha"]:
            key = o["beta"] * composite + (o["alpha"] * np.sqrt(squared) if taken else 0.0)
        else:
            key = squared.copy()
        key[~allowed] = key[taken] = -np.inf
        if step == 0 and not len(kept) and not o["alpha"]:
            row = int(rows[first_best(composite[rows]) if o["start"] == "best" else far_start(x[rows])])
        else:
            row = first_best(key)
        taken.append(row)
        squared = np.minimum(squared, ((x64 - x64[row]) ** 2).sum(1))
    return taken[len(kept) :]


def ranked(composite, rows):
    return rows[np.argsort(-composite[rows], kind="stable")]


def restated(x, share=SHARE, **options):
    """Picks, pool and composite of the documents' algorithm."""
    o = DEFAULTS | options
    n, m = len(x), int(len(x) * share)
    composite = np.zeros(n)
    for w, s in zip((o["w_repr"], o["w_density"], o["w_unc"]), signals(x, o), strict=False):
        composite += w * scaled(s)
    size = min(n, max(int(np.ceil(m * o["topk_pool_multiplier"])), o["min_pool"]))
    every = np.arange(n)
    plain = o | {"alpha": 0.0, "start": "far"}
    o["start"] = "best" if o["pool"] == "diversity" else "far"
    if o["pool"] == "composite":
        chosen = ranked(composite, every)[:size]
    else:
        chosen = np.array(greedy(x, size, [], np.ones(n, bool), composite, plain))
    pool = np.isin(every, chosen)
    by_rank = o["pool"] == "refined"

    def grow(allowed, count, kept):
        if by_rank:
            return list(ranked(composite, np.flatnonzero(allowed))[:count])
        return greedy(x, count, kept, allowed, composite, o)

    picks = grow(pool, m, [])
    if clean := min(round(o["clean"] * m), n - m):
        good = sorted(range(m), key=lambda i: (-composite[picks[i]], i))[: m - clean]
        spare = pool & ~np.isin(every, picks)
        short = max(0, clean - int(spare.sum()))
        more = ranked(composite, np.flatnonzero(~pool & ~np.isin(every, picks)))[:short]
        spare[more] = pool[more] = True
        kept = [picks[i] for i in sorted(good)]
        picks = kept + grow(spare, clean, kept)
    return picks, pool, composite


def sampler(share=SHARE, **options):
    wanted = {"density_subsample": 10**6, "dimension_to_project_features_to": None} | DEFAULTS | options
    return ELFSCoresetSampler(share, preset="composite", **wanted)


def check(x, share=SHARE, **options):
    ours = sampler(share, **options)
    found = ours.select(x)
    picks, pool, composite = restated(x, share, **options)
    assert found.tolist() == picks
    assert np.array_equal(ours.pool_.numpy(), pool) and bool(ours.pool_[found].all())
    assert np.array_equal(ours.scores_["composite"].numpy(), composite.astype(np.float32))
    assert ours.report_["pool_rows"] == pool.sum() and ours.report_["selected"] == len(picks)
    return ours


WEIGHTS = [w for w in itertools.product((-1.0, 0.0, 0.5), (-1.0, 0.0, 1.0)) if any(w)]


@pytest.mark.parametrize("pool", ["composite", "diversity", "refined"])
@pytest.mark.parametrize(("w_repr", "w_density"), WEIGHTS)
def test_weights_of_every_sign(w_repr, w_density, pool):
    check(grid(), w_repr=w_repr, w_density=w_density, pool=pool)


@pytest.mark.parametrize("alpha", [0.0, 0.05])
@pytest.mark.parametrize("pool", ["composite", "diversity", "refined"])
@pytest.mark.parametrize("density", ["rarity", "dense"])
@pytest.mark.parametrize("repr", ["mean", "clusters"])
def test_every_form_of_each_part(repr, density, pool, alpha):
    check(grid(1), repr=repr, density=density, pool=pool, alpha=alpha, beta=-2.0 if repr == "mean" else 1.0)
    check(grid(2), repr=repr, density=density, pool=pool, alpha=alpha, clean=0.3)


@pytest.mark.parametrize("w_unc", [-1.0, 0.5])
def test_noise(w_unc):
    for draws in (1, 3):
        check(grid(), noise_T=draws, noise_std=0.01, w_unc=w_unc)


@pytest.mark.parametrize("pool", ["composite", "diversity", "refined"])
def test_pool_size(pool):
    for multiplier, least, size in ((1, 0, M), (2.5, 0, 80), (1, 100, 100), (3, 10, 96), (1e9, 0, N), (1, 10**6, N)):
        ours = check(grid(), topk_pool_multiplier=multiplier, min_pool=least, pool=pool)
        assert int(ours.pool_.sum()) == size


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("pool", ["composite", "diversity", "refined"])
def test_cleaning(pool, alpha):
    for clean, multiplier in ((0.02, 5), (0.5, 1), (1.0, 2), (1.0, 1), (0.5, 1.3)):
        ours = check(grid(3), clean=clean, topk_pool_multiplier=multiplier, pool=pool, alpha=alpha)
        assert ours.report_["cleaned"] == round(clean * M)
    assert check(grid(3), 1.0, clean=0.5, pool=pool, alpha=alpha).report_["cleaned"] == 0


def test_all_rows_and_one_row():
    assert sorted(check(grid(), 1).indices_.tolist()) == list(range(N))
    check(np.concatenate([grid(), np.repeat(grid(1, 8), 8, 0)]), density="dense")  # most rows are among their like
    for n in (1, 2, 3):
        assert sorted(sampler(1.0, noise_T=2).select(grid(n=n)).tolist()) == list(range(n))
        assert sorted(sampler(1, instability="proxy", clean=1.0).select(grid(n=n)).tolist()) == list(range(n))


def test_equal_rows_are_taken_in_order():
    x = np.ones((64, D), np.float32)
    ours = sampler(0.25, noise_T=0)
    assert ours.select(x).tolist() == list(range(16)) and ours.pool_.nonzero()[:, 0].tolist() == list(range(64))
    assert float(ours.scores_["composite"].abs().max()) == 0


def test_over_all_rows_it_is_greedy():
    x = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
    want = GreedyCoresetSampler(0.1, None, 8)
    ours = ELFSCoresetSampler(0.1, min_pool=300, dim_reduce=8)
    assert torch.equal(ours.select(x), want.select(x)) and torch.equal(ours.radii_, want.radii_)
    assert torch.equal(ours.projection_, want.projection_)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3}, {"pool": "diversity"}, {"clean": 0.2, "density": "dense"}])
def test_rows_in_another_order_are_the_same_picks(options):
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert torch.equal(order[sampler(**options).select(x[order])], sampler(**options).select(x))


def test_normalised_leaves_out_what_is_not_finite():
    s = torch.tensor([2.0, torch.nan, 4.0, torch.inf, 3.0, -torch.inf])
    assert normalised(s).tolist() == [0, 0, 1, 0, 0.5, 0]
    assert normalised(torch.full((3,), torch.nan)).tolist() == normalised(torch.full((3,), 7.0)).tolist() == [0, 0, 0]
    assert normalised(torch.tensor([5.0, torch.inf])).tolist() == [0, 0]


def test_noise_does_not_depend_on_the_batch():
    x = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    found = [ELFSCoresetSampler(0.02, noise_T=2, batch_size_instability=b) for b in (1, 1024, 5000)]
    picks = [f.select(x) for f in found]
    assert all(torch.equal(p, picks[0]) for p in picks)
    assert all(torch.equal(f.scores_["instability"], found[0].scores_["instability"]) for f in found)
