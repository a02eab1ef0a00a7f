"""What holds for every score: chunks, seeds, what features may be, progress, memory, and bad input."""

import numpy as np
import pytest
import torch

from patchcore_fast.scores import difficulty, instability, k_means, noise_instability, rarity, representativeness
from patchcore_fast.scores.rows import moments, read_rows

from ..programs import run


def rand(n=700, d=20, seed=0, dtype=torch.float32):
    """Rows around a few centres, as patch features are."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(9, d, generator=generator)
    return (centres[torch.randint(9, (n,), generator=generator)] + torch.randn(n, d, generator=generator)).to(dtype)


# Every score as a function of features and options, with small settings: what holds for all is tested for all.
SCORES = {
    "k_means": lambda x, **kw: torch.stack(
        [(km := k_means(x, 12, sample=20, iterations=4, **kw)).labels.double(), km.distances.double()]
    ),
    "rarity": lambda x, **kw: rarity(x, anchors=60, **kw),
    "representativeness": lambda x, **kw: representativeness(x, clusters=8, **kw),
    "representativeness, global": lambda x, **kw: representativeness(x, mode="global", **kw),
    "difficulty": lambda x, **kw: torch.stack(list(vars(difficulty(x, clusters=6, hidden=9, **kw)).values())),
    "instability": lambda x, **kw: instability(x, [x[::-1] if isinstance(x, np.ndarray) else x.flip(0)] * 2, **kw),
    "noise_instability": lambda x, **kw: noise_instability(x, 0.5, 3, **kw),
}


DRAWS = [name for name in SCORES if name not in ("representativeness, global", "instability")]


@pytest.mark.parametrize("name", SCORES)
def test_chunks_change_nothing(name):
    x = rand(2100 if name == "noise_instability" else 1100)
    whole = SCORES[name](x)
    assert whole.device.type == "cpu" and whole.shape[-1] == len(x) and bool(whole.isfinite().all())
    for chunk_size in (1, 37, 256, 1024, 10**9):
        assert torch.equal(SCORES[name](x, chunk_size=chunk_size), whole), chunk_size


@pytest.mark.parametrize("name", DRAWS)
def test_seeds_repeat_and_differ_and_leave_global_state_alone(name):
    x = rand()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (SCORES[name](x, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


@pytest.mark.parametrize("name", SCORES)
def test_what_features_may_be(name, tmp_path):
    x = rand()
    want = SCORES[name](x)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(SCORES[name](mapped), want)
    assert torch.equal(SCORES[name](x.double().numpy()), want)  # the same values, wider
    assert torch.equal(SCORES[name](x.t().contiguous().t().requires_grad_()), want)
    half = x.half()
    assert torch.equal(SCORES[name](half.numpy()), SCORES[name](half.double()))
    assert SCORES[name](x.bfloat16()).shape == want.shape


@pytest.mark.parametrize("name", SCORES)
def test_progress_ends_at_the_total(name):
    calls = []
    x = rand(1500)
    want = SCORES[name](x)
    assert torch.equal(SCORES[name](x, chunk_size=100, progress=lambda *c: calls.append(c)), want)
    done, total = zip(*calls, strict=True)
    assert len(calls) > 1 and set(total) == {done[-1]} and list(done) == sorted(done) and done[-1] >= len(x)


def test_moments_keep_their_digits_far_from_the_origin():
    x = rand(5000, 4, dtype=torch.float64) + 1e7
    mean, variance = moments(read_rows("moments", x, None, 777))
    np.testing.assert_allclose(mean.numpy(), x.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(variance.numpy(), x.numpy().var(0), rtol=1e-10)


def test_memory_is_per_row():
    # 200,000 x 256 floats would be 205 MB; one [N] of them is 0.8 MB.
    code = """
import sys, torch
from patchcore_fast import scores
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
x = torch.randn(200_000, 16, generator=torch.Generator().manual_seed(0))
def all_of(x):
    km = scores.k_means(x, 256, sample=32)
    scores.representativeness(x, clusters=km)
    scores.representativeness(x, mode="global")
    scores.rarity(x)
    scores.difficulty(x, labels=km.labels, epochs=1)
    scores.instability(x, x)
all_of(x[:70_000])  # one chunk and a bit: buffers and libraries
before = peak()
all_of(x)
print(peak() - before)
"""
    done = run(code)
    assert float(done.stdout) < 60, done


NAN = torch.full((30, 4), 1.0)


NAN[7, 2] = torch.nan


OK = torch.arange(120.0).view(30, 4)


BAD = {
    "list": (lambda: rarity([[1.0]]), TypeError, "rarity: features must be an ndarray or torch.Tensor"),
    "integers": (lambda: k_means(np.ones((4, 2), int), 2), TypeError, "k_means: features must be float16.*got int64"),
    "3-D": (lambda: difficulty(torch.ones(2, 2, 2)), ValueError, r"must be 2-D \[N, D\], got shape \(2, 2, 2\)"),
    "no rows": (lambda: rarity(torch.ones(0, 2)), ValueError, "rarity: features must hold at least one row"),
    "chunk": (lambda: rarity(OK, chunk_size=0), ValueError, "rarity: chunk_size must lie in 1.*got 0"),
    "seed": (lambda: k_means(OK, 2, seed=-1), ValueError, "k_means: seed must lie in .*got -1"),
    "seed text": (lambda: difficulty(OK, seed="0"), TypeError, "difficulty: seed must be an integer, got '0'"),
    "device": (lambda: rarity(OK, device="tpu9"), ValueError, "rarity: device must be one that .* got 'tpu9'"),
    "clusters": (lambda: k_means(OK, 31), ValueError, r"k_means: clusters must lie in 1..30 \(N = 30\), got 31"),
    "iterations": (lambda: k_means(OK, 3, iterations=-1), ValueError, "k_means: iterations must lie in"),
    "sample": (lambda: k_means(OK, 3, sample=0.5), TypeError, "k_means: sample must be an integer, got 0.5"),
    "range": (lambda: k_means(OK.double() * 1e60, 2), ValueError, "float32's range, got a value of size 1.19e"),
    "k": (lambda: rarity(OK, k=30), ValueError, r"rarity: k must lie in 1..29 \(30 anchors"),
    "one anchor": (lambda: rarity(OK, anchors=[3, 3]), ValueError, "rarity: at least 2 anchors .* got 1"),
    "anchor row": (lambda: rarity(OK, anchors=[3, 30]), ValueError, "rarity: anchors must lie in 0..29, got 30 at 1"),
    "anchors text": (lambda: rarity(OK, anchors="all"), TypeError, "rarity: anchors must be an integer, got 'all'"),
    "mode": (lambda: representativeness(OK, mode="near"), ValueError, 'must be "cluster" or "global", got \'near\''),
    "foreign": (
        lambda: representativeness(OK, clusters=k_means(OK[:9], 2)),
        ValueError,
        "clusters must be of these 30 rows, got a k_means of 9",
    ),
    "no view": (lambda: instability(OK, []), ValueError, "instability: views must hold at least one view"),
    "view shape": (
        lambda: instability(OK, [OK, OK[:5]]),
        ValueError,
        r"views\[1\] must have the shape of features \(30, 4\), got \(5, 4\)",
    ),
    "view dims": (lambda: instability(OK, torch.ones(30)), ValueError, r"views must be \[N, D\] or \[V, N, D\]"),
    "view type": (lambda: instability(OK, "flip"), TypeError, "views must be an ndarray, a tensor or a sequence"),
    "view integers": (lambda: instability(OK, [OK.int()]), TypeError, r"views\[0\] must be floating, got torch.int32"),
    "view NaN": (lambda: instability(OK, [NAN]), ValueError, r"instability: views\[0\] must be finite; 1 of 30"),
    "std": (lambda: noise_instability(OK, 0, 1), ValueError, "noise_instability: std must be finite and > 0, got 0"),
    "draws": (lambda: noise_instability(OK, 0.1, 0), ValueError, "noise_instability: draws must lie in 1"),
    "rate": (lambda: difficulty(OK, learning_rate="1"), TypeError, "difficulty: learning_rate must be a number"),
    "epochs": (lambda: difficulty(OK, epochs=0), ValueError, "difficulty: epochs must lie in 1"),
    "early": (lambda: difficulty(OK, epochs=3, early_epochs=4), ValueError, "early_epochs must lie in 1..3, got 4"),
    "one class": (lambda: difficulty(OK, labels=torch.ones(30).long()), ValueError, "at least two classes .* got 1"),
    "equal rows": (lambda: difficulty(torch.ones(9, 2)), ValueError, "at least two classes are wanted, got 1 in 9"),
    "labels size": (lambda: difficulty(OK, labels=torch.ones(4).long()), ValueError, r"labels must have shape \(30,\)"),
    "labels below 0": (
        lambda: difficulty(OK, labels=np.arange(30) - 1),
        ValueError,
        "labels must lie in .*got -1 at 0",
    ),
    "labels floating": (lambda: difficulty(OK, labels=np.ones(30)), TypeError, "labels must be integers, got"),
    "labels list": (lambda: difficulty(OK, labels=[1] * 30), TypeError, "labels must be an ndarray or torch.Tensor"),
}


@pytest.mark.parametrize("call, error, message", BAD.values(), ids=list(BAD))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite(name, bad):
    x = rand()
    x[611, 3] = x[650, 0] = bad
    function = name.split(",")[0]
    with pytest.raises(ValueError, match=f"^{function}: features must be finite; 2 of 700 .* the first is row 611"):
        SCORES[name](x, chunk_size=100)
