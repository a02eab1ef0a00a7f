from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from patchcore_fast.kernels import explain_backends, k_center_greedy, knn, knn_rarity
from patchcore_fast.kernels.knn.reference import knn_rarity_reference, knn_reference

from .cases import DEVICES, awkward, gaussian, integers


def check(query, bank, k):
    """Rows and distances equal float64 brute force."""
    distance, rows = knn(query, bank, k)
    expected = knn_reference(query, bank, k)
    assert torch.equal(rows, expected[1])
    assert torch.equal(distance, expected[0])
    assert distance.dtype == torch.float32 and rows.dtype == torch.int64


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", awkward())
@pytest.mark.parametrize("k", [1, 9, 40])
def test_awkward_banks_equal_brute_force(name, k, device):
    bank = awkward()[name].to(device)
    query = torch.cat([bank[:30], bank[10:50] * 1.01])
    check(query, bank, k)


@pytest.mark.parametrize("k", [1, 5, 64, 500])
@pytest.mark.parametrize("d", [1, 3, 128])
def test_ties_go_to_the_lowest_row(d, k):
    check(integers(200, d, seed=1), integers(500, d), k)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2049, 5), (2049, 1, 5), (2100, 2100, 7), (130, 5000, 33)], ids=str)
def test_sizes_around_the_tiles(shape):
    q, m, d = shape
    query, bank = gaussian(q, d, seed=1), gaussian(m, d)
    rows = torch.arange(0, q, max(1, q // 40))
    distance, index = knn(query, bank, min(m, 5))
    expected = knn_reference(query[rows], bank, min(m, 5))
    assert torch.equal(index[rows], expected[1]) and torch.equal(distance[rows], expected[0])


@pytest.mark.parametrize("k", [1, 9])
def test_constant_background(k):
    # A quarter of the bank and of the queries are one row: crowded queries beside ordinary ones.
    bank, query = gaussian(1200, 16), gaussian(100, 16, seed=1)
    bank[::4] = query[::4] = 0.3
    check(query, bank, k)
    check(query.half(), bank.half(), k)


def test_gradients_are_cut():
    distance, _ = knn(gaussian(4, 3).requires_grad_(), gaussian(6, 3).requires_grad_(), 2)
    assert not distance.requires_grad


def test_many_equal_rows_across_tiles():
    # 6,000 copies of 3 rows: far more survivors than are kept, spread over several tiles of the bank.
    bank = gaussian(3, 10).repeat(2000, 1)
    check(gaussian(5, 10, seed=1), bank, 64)


def test_real_features_equal_brute_force(real_features):
    bank = real_features[k_center_greedy(real_features, 1000).indices]
    check(real_features[::500], bank, 9)


def test_no_queries():
    distance, rows = knn(torch.empty(0, 4), gaussian(5, 4), 2)
    assert distance.shape == (0, 2) and rows.shape == (0, 2)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_bank_equals_brute_force(data):
    d = data.draw(st.integers(1, 5))
    values = st.integers(-2, 2).map(float) if data.draw(st.booleans()) else st.floats(-3, 3, width=32)
    row = st.lists(values, min_size=d, max_size=d)
    bank = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=40)))
    query = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=5)))
    check(query, bank, data.draw(st.integers(1, bank.shape[0])))


def test_opcheck():
    opcheck(torch.ops.patchcore_fast.knn.default, (gaussian(50, 6), gaussian(80, 6, seed=1), 3))
    opcheck(torch.ops.patchcore_fast.knn.default, (torch.empty(0, 6), gaussian(80, 6), 3, "torch"))


def test_compiles_into_one_graph():
    bank = gaussian(80, 6)

    def score(x):
        return knn(x * 2, bank, 3)[0].mean(1)

    query = gaussian(20, 6, seed=1)
    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(query), score(query))


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", ["gaussian", "duplicates", "quantised", "float16"])
def test_rarity_equals_the_reference(name, k):
    x = awkward()[name]
    anchors = torch.randperm(x.shape[0], generator=torch.Generator().manual_seed(2))[:50]
    rarity = knn_rarity(x, k, anchors=anchors)
    torch.testing.assert_close(rarity, knn_rarity_reference(x, k, anchors), rtol=1e-6, atol=0)
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
    if not torch.cuda.is_available():
        assert not rows["torch", "cuda"].available and "no CUDA device" in str(rows["torch", "cuda"])
