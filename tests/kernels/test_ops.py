"""The registered operators: schemas, fakes, graphs; and what a call may use."""

import pytest
import torch
from torch.library import opcheck

from patchcore_fast.kernels import k_center_greedy, knn, knn_rarity

from .cases import gaussian
from .engines import BACKENDS

OPS = torch.ops.patchcore_fast


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_knn(backend):
    query, bank = gaussian(50, 6), gaussian(80, 6, seed=1)
    opcheck(OPS.knn.default, (query, bank, 3, backend, "tf32", 1 << 22))
    opcheck(OPS.knn.default, (query, bank, 3), {"backend": backend, "precision": "bf16"})


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_k_center_greedy(backend):
    x = gaussian(60, 5)
    opcheck(OPS.k_center_greedy.default, (x, 7), {"backend": backend})
    options = {
        "start": 4,
        "initial_min_dist": torch.full((60,), 3.0),
        "selected": torch.tensor([7, 9]),
        "weights": torch.rand(60, generator=torch.Generator().manual_seed(1)),
        "backend": backend,
        "memory_limit": 1 << 24,
    }
    opcheck(OPS.k_center_greedy.default, (x.half(), 7), options)
    found, expected = OPS.k_center_greedy(x, 7, **options), k_center_greedy(x, 7, **options)
    assert torch.equal(found[0], expected.indices) and torch.equal(found[1], expected.radii)


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_compile_into_one_graph(backend):
    def coreset_scores(x):
        rows, radii = OPS.k_center_greedy(x * 2, 9, start=1, backend=backend, precision="tf32", memory_limit=1 << 26)
        bank = (x * 2).index_select(0, rows)
        return knn(x * 2, bank, 2, backend=backend, precision="float32", memory_limit=1 << 26)[0], radii

    x = gaussian(90, 6)
    compiled = torch.compile(coreset_scores, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(x), coreset_scores(x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_budget_changes_no_neighbours(backend):
    query, bank = gaussian(300, 20, seed=1), gaussian(2500, 20)
    bank[::5] = bank[3]
    expected = knn(query, bank, 9, backend=backend)
    for options in ({"memory_limit": 1 << 20}, {"precision": "tf32"}, {"precision": "bf16", "memory_limit": 1 << 21}):
        found = knn(query, bank, 9, backend=backend, **options)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    rarity = knn_rarity(bank, 4, anchors=100, backend=backend)
    assert torch.equal(knn_rarity(bank, 4, anchors=100, backend=backend, memory_limit=1 << 20), rarity)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"precision": "half"}, ValueError, "precision must be one of float32, ieee, tf32x3, tf32, bf16, got 'half'"),
        ({"precision": None}, TypeError, "precision must be a string, got NoneType"),
        ({"memory_limit": 1000}, ValueError, "memory_limit must lie in 1048576"),
        ({"memory_limit": 2.5e9}, TypeError, "memory_limit must be an integer, got 2500000000.0"),
        ({"memory_limit": True}, TypeError, "memory_limit must be an integer, got True"),
    ],
)
def test_bad_budgets(options, error, message):
    x = gaussian(9, 3)
    for call in (lambda: knn(x, x, 1, **options), lambda: knn_rarity(x, 1, **options)):
        with pytest.raises(error, match=f"knn: {message}"):
            call()
    with pytest.raises(error, match=f"k_center_greedy: {message}"):
        k_center_greedy(x, 1, **options)


def test_the_operator_checks_too():
    x = gaussian(9, 3)
    with pytest.raises(ValueError, match="knn: precision must be one of"):
        OPS.knn(x, x, 1, "auto", "half")
