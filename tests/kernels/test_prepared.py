"""Prepared banks: the neighbours of float64 brute force, whichever way they are searched."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

from patchcore_fast.kernels import knn, prepare
from patchcore_fast.kernels.backends.tiled import prepared as tiled
from patchcore_fast.kernels.knn.reference import knn_reference
from patchcore_fast.kernels.short_rows import leading_directions, short_rows, slack_of

from .cases import awkward, gaussian
from .engines import BACKENDS, once

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def like_features(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Clusters whose spread falls off from direction to direction, turned, far from the origin."""
    g = torch.Generator().manual_seed(9)
    spread = torch.logspace(0.5, -1.5, d)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    centres = 3 * torch.randn(20, d, generator=g)
    g.manual_seed(seed)
    x = centres[torch.randint(20, (n,), generator=g)] + torch.randn(n, d, generator=g)
    return (x * spread) @ turn + 30


def check(bank, query, k, expected, ready):
    distance, rows = knn(query, ready, k)
    assert torch.equal(rows, expected[1])
    assert torch.equal(distance, expected[0])
    assert ready.work.pairs > 0 and len(ready) == len(bank)


@pytest.mark.parametrize("name", awkward())
def test_awkward_banks_equal_brute_force(name, engine, threads):
    threads(1)
    bank = awkward()[name]
    query = torch.cat([bank[:30], bank[10:50] * 1.01])
    ready = prepare(bank.to(engine.device), backend=engine.backend, prune="partial")
    for k in (1, 9, 40):
        expected = once(("awkward bank", name, k, "cpu"), lambda k=k: knn_reference(query, bank, k))
        check(bank, query.to(engine.device), k, expected, ready)
    far = gaussian(20, bank.shape[1], seed=4)
    far[:3] *= 1e4
    k = bank.shape[0]
    check(bank, far, k, once(("other queries", name, k, "cpu"), lambda: knn_reference(far, bank, k)), ready)


@pytest.mark.parametrize("seed", range(4))
def test_features_equal_brute_force(seed, engine, threads):
    # Rows of each type, equal ones, a constant one and a far-away one, queries of another type.
    threads(2)
    bank = like_features(1500, 70, seed)
    bank[40:80] = bank[3]
    bank[90] = 0.25
    bank[91] *= 500 if seed % 2 else 1
    bank = bank.to(TYPES[seed])
    query = torch.cat([like_features(40, 70, 50 + seed), bank[1:9].float(), bank[91:92].float()]).to(TYPES[3 - seed])
    ready = prepare(bank, backend=engine.backend, prune="partial")
    for k in (1, 5, 64):
        check(bank, query, k, once(("features", seed, k), lambda k=k: knn_reference(query, bank, k)), ready)
    assert 0 < ready.columns < 70 and ready.work.full < ready.work.pairs / 20 and ready.share < 1 and ready.nbytes > 0


def test_nothing_is_left_out_of_rows_alike(engine, threads):
    # Short rows exclude nothing: searches give up on them, and say the same.
    threads(2)
    bank, query = gaussian(4000, 96), gaussian(70, 96, seed=1)
    expected = once(("alike",), lambda: knn_reference(query, bank, 9))
    ready = prepare(bank, backend=engine.backend, prune="partial")
    check(bank, query, 9, expected, ready)
    automatic = prepare(bank, backend=engine.backend)
    for _ in range(3):
        check(bank, query, 9, expected, automatic)
    assert automatic.columns == 0  # too few queries so far to be worth it
    never = prepare(bank, backend=engine.backend, prune="none")
    check(bank, query, 9, expected, never)
    assert never.share == 1


def test_too_many_pairs_are_searched_plainly(monkeypatch):
    monkeypatch.setattr(tiled, "_PAIRS", 50)
    bank, query = gaussian(3000, 96), gaussian(40, 96, seed=1)
    expected = knn(query, bank, 2, backend="torch")
    ready = prepare(bank, backend="torch", prune="partial")
    check(bank, query, 2, expected, ready)
    assert ready.work.full == ready.work.pairs


def test_short_rows_come_when_they_can_pay(engine, threads):
    threads(2)
    bank, query = like_features(2100, 70), like_features(1100, 70, 1)
    ready = prepare(bank, backend=engine.backend)
    expected = once(("come",), lambda: knn(query, bank, 1, backend="torch"))
    for _ in range(4):
        check(bank, query, 1, expected, ready)
    assert ready.columns > 0 and ready.work.short > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_one_bank(backend):
    bank, query = like_features(2100, 70), like_features(300, 70, 1)
    expected = knn(query, bank, 3)
    ready = prepare(bank, backend=backend)
    right = []

    def search():
        found = [knn(query, ready, 3) for _ in range(5)]
        right.append(all(torch.equal(a, b) for pair in found for a, b in zip(pair, expected, strict=True)))

    others = [threading.Thread(target=search) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert right == [True] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_of_another_size(backend):
    # Longer than the frame of the bank has room for.
    bank = like_features(300, 70)
    query = torch.cat([bank[:4], bank[:4] * 1e3, bank[:4] * 1e30, bank[:4] * 1e-30])
    check(bank, query, 3, knn_reference(query, bank, 3), prepare(bank, backend=backend, prune="partial"))
    none = knn(bank[:0], prepare(bank, backend=backend), 2)
    assert none[0].shape == none[1].shape == (0, 2) and none[0].dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_are_prepared_anew(backend):
    bank = like_features(200, 70)
    ready = prepare(bank, backend=backend, prune="partial")
    for other in (copy.deepcopy(ready), pickle.loads(pickle.dumps(ready))):
        assert (other.backend, other.prune, other.columns) == (backend, "partial", ready.columns)
        assert torch.equal(knn(bank[:5], other, 3)[1], knn(bank[:5], bank, 3)[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_wrong_is_told(backend):
    bank = like_features(100, 70)
    ready = prepare(bank, backend=backend)
    broken = bank[:3].clone()
    broken[1, 2] = torch.nan
    for query, message in ((broken, "query must be finite; 1 of 3"), (bank[:2, :9], "equal width, got 9 and 70")):
        with pytest.raises(ValueError, match=message):
            knn(query, ready, 1)
    with pytest.raises(ValueError, match="bank must be finite; 1 of 3"):
        prepare(broken, backend=backend)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.100"):
        knn(bank, ready, 101)
    with pytest.raises(ValueError, match="not for a prepared bank"):
        knn(bank, ready, 1, precision="tf32")
    with pytest.raises(ValueError, match="prune must be one of auto, none, partial, got 'triangle'"):
        prepare(bank, prune="triangle")
    with pytest.raises(TypeError, match=r"prepare: bank must be a torch\.Tensor"):
        prepare(bank.numpy())
    bank[3] = 0
    with pytest.raises(ValueError, match="was changed after it was prepared"):
        knn(bank, ready, 1)


@pytest.mark.parametrize("d", [63, 384, 1100])
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e15])
def test_short_rows_are_within_their_bound(d, size):
    # Against 80-bit floats: how far off short rows are, and how far apart those of near and of equal rows.
    x = like_features(60, d).double() * size
    x[30:] = x[:30] * (1 + 1e-7 * gaussian(30, d, seed=1))
    centre = x.median(0).values
    made = leading_directions(x, centre, 1.0, (31,), 40)
    assert made is not None
    for directions in (made[0], made[0][:, : made[1]].contiguous()):
        slack, short = slack_of(directions), short_rows(x, centre, 1.0, directions)
        v, z = (t.numpy().astype(np.longdouble) for t in (directions, x - centre))
        for _ in range(2):  # Newton's steps to the polar factor
            v = v @ (1.5 * np.eye(v.shape[1]) - 0.5 * v.T @ v)
        along, norm = z @ v, np.sqrt((z * z).sum(1))
        rest = z - along @ v.T
        true = np.concatenate([along, np.sqrt((rest * rest).sum(1))[:, None]], 1)
        off = np.sqrt(((short.double().numpy() - true) ** 2).sum(1))
        assert (off <= slack.share * norm + slack.tiny).all()
        assert (slack.longest(short).numpy() >= norm.astype(np.float64)).all()
        i, j = np.triu_indices(60)
        apart = np.sqrt(((z[i] - z[j]) ** 2).sum(1)).astype(np.float64)
        most = slack.between(torch.from_numpy(apart), torch.from_numpy(norm[i].astype(np.float64))).numpy()
        assert (np.sqrt(((short[i] - short[j]).double() ** 2).sum(1).numpy()) <= most).all()
