"""Influence against float64 autograd over all distances, which is what it must equal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from patchcore_fast.kernels import knn
from patchcore_fast.scorers import influence, typical_influence

from ..patches import normal

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _autograd(x: Tensor, bank: Tensor, k: int, squared: bool = False) -> Tensor:
    x = x.detach().double().clone().requires_grad_()
    dist = torch.cdist(x, bank.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values[:, :k]
    (dist.square() if squared else dist).mean(1).sum().backward()
    assert x.grad is not None
    return x.grad.abs()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("squared", [False, True], ids=["euclidean", "squared"])
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("d", [1, 3, 64, 1024])
def test_equals_autograd(d: int, k: int, squared: bool, device: str) -> None:
    x, bank = normal(90, d, 0).to(device), normal(50, d, 1).to(device)
    found = influence(x, bank, k, squared=squared, chunk_size=32)
    want = _autograd(x, bank, k, squared)
    torch.testing.assert_close(found.influence.double(), want, rtol=1e-5, atol=1e-5)
    dist, rows = knn(x, bank, k)
    assert torch.equal(found.distances, dist) and torch.equal(found.rows, rows)


@pytest.mark.parametrize("k", [1, 5])
def test_equals_autograd_on_real_features(real_features: Tensor, k: int) -> None:
    x, bank = real_features[7::400], real_features[::50]
    want = _autograd(x, bank, k)
    torch.testing.assert_close(influence(x, bank, k).influence.double(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-18, 1e15], ids=["small", "large"])
def test_does_not_depend_on_the_unit(scale: float) -> None:
    x, bank = normal(40, 16, 0), normal(30, 16, 1)
    want = _autograd(x, bank, 3)
    got = influence(x.double() * scale, bank.double() * scale, 3).influence
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_float64_keeps_its_digits_and_half_precision_is_widened() -> None:
    x, bank = normal(40, 16, 0).double(), normal(30, 16, 1).double()
    torch.testing.assert_close(influence(x, bank, 3).influence, _autograd(x, bank, 3), rtol=1e-12, atol=1e-14)
    low = influence(x.bfloat16(), bank.bfloat16(), 3).influence
    assert low.dtype == torch.float32
    want = _autograd(x.bfloat16(), bank.bfloat16(), 3)
    torch.testing.assert_close(low.double(), want, rtol=1e-5, atol=1e-5)


def test_a_patch_of_the_bank_has_no_influence_from_itself() -> None:
    bank = normal(30, 8, 0)
    assert influence(bank, bank, 1).influence.eq(0).all()
    torch.testing.assert_close(influence(bank, bank, 3).influence.double(), _autograd(bank, bank, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunks_change_nothing(chunk_size: int) -> None:
    x, bank = normal(50, 24, 0), normal(40, 24, 1)
    for got, want in zip(influence(x, bank, 4, chunk_size=chunk_size), influence(x, bank, 4), strict=True):
        assert torch.equal(got, want)


def test_no_queries_and_no_graph() -> None:
    bank = normal(10, 4, 0)
    none = influence(bank[:0], bank, 2)
    assert [t.shape for t in none] == [(0, 4), (0, 2), (0, 2)]
    assert not influence(normal(3, 4, 1).requires_grad_(), bank, 2).influence.requires_grad


def test_memory_is_that_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    whole = torch.Tensor.index_select

    def watched(self: Tensor, dim: int, index: Tensor) -> Tensor:
        sizes.append(len(index))
        return whole(self, dim, index)

    monkeypatch.setattr(torch.Tensor, "index_select", watched)
    bank = normal(60, 8, 1)
    influence(
        normal(100, 8, 0), bank, 3, chunk_size=16, search=lambda q, k: torch.cdist(q, bank).topk(k, largest=False)
    )
    assert sizes == [16] * (6 * 3) + [4] * 3, "one neighbour of one chunk at a time"


def test_another_search_is_used() -> None:
    x, bank = normal(20, 8, 0), normal(30, 8, 1)
    found = influence(x, bank, 2, search=lambda q, k: knn(q, bank[:5], k))
    assert int(found.rows.max()) < 5
    assert torch.equal(found.influence, influence(x, bank[:5], 2).influence)


def test_typical_influence_leaves_out_the_row_itself() -> None:
    bank = torch.cat([normal(30, 6, 0), normal(30, 6, 0)[:4]])  # four rows twice
    want = torch.zeros(6, dtype=torch.float64)
    for i in range(len(bank)):
        want += _autograd(bank[i : i + 1], torch.cat([bank[:i], bank[i + 1 :]]), 3)[0]
    torch.testing.assert_close(typical_influence(bank, 3), want / len(bank), rtol=1e-5, atol=1e-6)
    assert typical_influence(bank[:1], 3).eq(1).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"query": [1.0]}, TypeError, "query must be a torch.Tensor"),
        ({"query": torch.zeros(3, 5)}, ValueError, "equal width, got 5 and 4"),
        ({"query": torch.full((3, 4), torch.nan)}, ValueError, "finite"),
        ({"bank": torch.zeros(0, 4)}, ValueError, "bank must hold at least one row"),
        ({"bank": torch.zeros(6, 4, dtype=torch.int64)}, TypeError, "bank must be float16"),
        ({"k": 7}, ValueError, "the bank has 6 rows"),
        ({"k": 0}, ValueError, "k must lie in"),
        ({"chunk_size": 0}, ValueError, "chunk_size must lie in"),
    ],
    ids=str,
)
def test_wrong_arguments(change: dict, error: type[Exception], words: str) -> None:
    given = {"query": torch.zeros(3, 4), "bank": normal(6, 4, 0), "k": 2} | change
    with pytest.raises(error, match=words):
        influence(**given)
