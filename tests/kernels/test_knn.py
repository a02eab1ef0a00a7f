from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from patchcore_fast.kernels import explain_backends, k_center_greedy, knn, knn_rarity
from patchcore_fast.kernels.knn.reference import knn_rarity_reference, knn_reference

from .cases import awkward, gaussian, integers
from .engines import BACKENDS, ENGINES, once


def check(engine, query, bank, k, key=None):
    """Rows and distances equal float64 brute force, bit for bit."""
    query, bank = query.to(engine.device), bank.to(engine.device)

    def reference():
        return knn_reference(query, bank, k)

    expected = reference() if key is None else once((*key, k, engine.device), reference)
    distance, rows = knn(query, bank, k, backend=engine.backend)
    assert torch.equal(rows, expected[1])
    assert torch.equal(distance, expected[0])
    assert distance.dtype == torch.float32 and rows.dtype == torch.int64


@pytest.mark.parametrize("name", awkward())
@pytest.mark.parametrize("k", [1, 9, 40])
def test_awkward_banks_equal_brute_force(name, k, engine, threads):
    bank = awkward()[name]
    query = torch.cat([bank[:30], bank[10:50] * 1.01])
    for count in (1, 2, 3):
        threads(count)
        check(engine, query, bank, k, key=("awkward bank", name))


@pytest.mark.parametrize("name", awkward())
def test_awkward_banks_and_other_queries(name, engine, threads):
    # Far from the bank, in another type, and as many neighbours as there are rows.
    bank = awkward()[name]
    query = gaussian(20, bank.shape[1], seed=4)
    query[:3] *= 1e4
    threads(2)
    check(engine, query, bank, bank.shape[0], key=("other queries", name))
    check(engine, query[:9].half(), bank, min(5, bank.shape[0]), key=("other queries", name, "float16"))


@pytest.mark.parametrize("k", [1, 5, 64, 500])
@pytest.mark.parametrize("d", [1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 300, 1024])
def test_ties_go_to_the_lowest_row(d, k, engine):
    check(engine, integers(60, d, seed=1), integers(500, d), k, key=("ties", d))


@pytest.mark.parametrize("q", [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65])
def test_sizes_around_the_lanes_and_points(q, engine, threads):
    threads(2)
    for m in (1, 5, 6, 7, 11, 12, 13, 31, 32, 33, 64, 65):
        bank, query = gaussian(m, 5), gaussian(q, 5, seed=1)
        for k in {1, m}:
            check(engine, query, bank, k, key=("lanes", q, m))


@pytest.mark.parametrize("types", [(a, b) for a in "hbfd" for b in "hbfd"], ids="".join)
def test_mixed_types(types, engine):
    names = {"h": torch.float16, "b": torch.bfloat16, "f": torch.float32, "d": torch.float64}
    query, bank = (gaussian(40, 33, seed=2) * 3 + 5).to(names[types[0]]), (gaussian(90, 33) * 3 + 5).to(names[types[1]])
    check(engine, query, bank, 4, key=("mixed", types))


@pytest.mark.parametrize("d", [16, 128])
def test_thousands_of_equal_rows(d, engine, threads):
    # Far more than any buffer holds, around rows that differ.
    bank = gaussian(5600, d)
    bank[200:5400] = bank[7]
    query = torch.cat([bank[5:9], bank[5500:5503], gaussian(3, d, seed=1)])
    threads(2)
    for k in (1, 64, 5600):
        check(engine, query, bank, k, key=("thousands", d))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2049, 5), (2049, 1, 5), (2100, 2100, 7), (130, 5000, 33)], ids=str)
def test_sizes_around_the_tiles(shape, engine):
    q, m, d = shape
    query, bank = gaussian(q, d, seed=1).to(engine.device), gaussian(m, d).to(engine.device)
    rows = torch.arange(0, q, max(1, q // 40))
    distance, index = knn(query, bank, min(m, 5), backend=engine.backend)
    expected = once(("tiles", shape, engine.device), lambda: knn_reference(query[rows], bank, min(m, 5)))
    assert torch.equal(index[rows], expected[1]) and torch.equal(distance[rows], expected[0])


@pytest.mark.parametrize("k", [1, 9])
def test_constant_background(k, engine):
    # A quarter of the bank and of the queries are one row: crowded queries beside ordinary ones.
    bank, query = gaussian(1200, 16), gaussian(100, 16, seed=1)
    bank[::4] = query[::4] = 0.3
    check(engine, query, bank, k, key=("background",))
    check(engine, query.half(), bank.half(), k, key=("background", "float16"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_cut(backend):
    distance, _ = knn(gaussian(4, 3).requires_grad_(), gaussian(6, 3).requires_grad_(), 2, backend=backend)
    assert not distance.requires_grad


def test_many_equal_rows_across_tiles(engine):
    # 6,000 copies of 3 rows: far more survivors than are kept, spread over several tiles of the bank.
    bank = gaussian(3, 10).repeat(2000, 1)
    check(engine, gaussian(5, 10, seed=1), bank, 64, key=("copies",))


def test_real_features_equal_brute_force(real_features, engine, threads):
    bank = real_features[once(("real bank",), lambda: k_center_greedy(real_features, 1000).indices)]
    for count in (1, 2, 3):
        threads(count)
        check(engine, real_features[::500], bank, 9, key=("real",))


def test_no_queries(engine):
    bank = gaussian(5, 4).to(engine.device)
    distance, rows = knn(bank[:0], bank, 2, backend=engine.backend)
    assert distance.shape == (0, 2) and rows.shape == (0, 2)


@settings(max_examples=100, deadline=None)  # others in each run
@given(data=st.data())
def test_any_bank_equals_brute_force(data):
    d = data.draw(st.integers(1, 5))
    values = st.integers(-2, 2).map(float) if data.draw(st.booleans()) else st.floats(-3, 3, width=32)
    row = st.lists(values, min_size=d, max_size=d)
    bank = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=40)))
    query = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=5)))
    with data.draw(st.sampled_from(ENGINES)).forced() as engine:
        check(engine, query, bank, data.draw(st.integers(1, bank.shape[0])))


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend):
    opcheck(torch.ops.patchcore_fast.knn.default, (gaussian(50, 6), gaussian(80, 6, seed=1), 3, backend))
    opcheck(torch.ops.patchcore_fast.knn.default, (torch.empty(0, 6), gaussian(80, 6), 3, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_into_one_graph(backend):
    bank = gaussian(80, 6)

    def score(x):
        return knn(x * 2, bank, 3, backend=backend)[0].mean(1)

    query = gaussian(20, 6, seed=1)
    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(query), score(query))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", ["gaussian", "duplicates", "quantised", "float16"])
def test_rarity_equals_the_reference(name, k, engine):
    x = awkward()[name]
    anchors = torch.randperm(x.shape[0], generator=torch.Generator().manual_seed(2))[:50]
    rarity = knn_rarity(x.to(engine.device), k, anchors=anchors.to(engine.device), backend=engine.backend)
    torch.testing.assert_close(rarity.cpu(), knn_rarity_reference(x, k, anchors), rtol=1e-6, atol=0)
    assert rarity.dtype == torch.float32


def test_rarity_is_large_for_rare_rows():
    x = torch.cat([gaussian(500, 8), gaussian(3, 8) + 20])
    rarity = knn_rarity(x, 5, anchors=200)
    assert set(rarity.topk(3).indices.tolist()) == {500, 501, 502}


def test_rarity_draws_are_repeatable():
    x = gaussian(400, 8)
    assert torch.equal(knn_rarity(x, 3, anchors=50), knn_rarity(x, 3, anchors=50))
    other = knn_rarity(x, 3, anchors=50, generator=torch.Generator().manual_seed(9))
    assert not torch.equal(knn_rarity(x, 3, anchors=50), other)


def test_explain_backends():
    rows = {(s.backend, s.device): s for s in explain_backends()}
    assert rows["torch", "cpu"].available
    assert rows["native", "cpu"].available == ("native" in BACKENDS)
    assert not rows["native", "cuda"].available and "runs on the CPU" in rows["native", "cuda"].reason
    if not torch.cuda.is_available():
        assert not rows["torch", "cuda"].available and "no CUDA device" in str(rows["torch", "cuda"])
