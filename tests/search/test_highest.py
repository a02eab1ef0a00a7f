"""The highest patches: their neighbours are those of a search for all, and none that could be one is left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from patchcore_fast.kernels import knn, prepare
from patchcore_fast.scoring import patch_scores
from patchcore_fast.search import HighestSearch, highest

IMAGES, PATCHES = 3, 90
Score = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highest, "_LEAST", 8)
    monkeypatch.setattr(highest, "_FIRST", 4)


def rows(count: int, seed: int, dim: int = 40) -> torch.Tensor:
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(0, -2, dim) + 5


def check(bank: torch.Tensor, query: torch.Tensor, k: int, count: int, score: Score, images: int = IMAGES) -> int:
    """How many patches were searched for in all rows."""
    ready = prepare(bank)
    dist, near = HighestSearch(ready).search(query, k, images, count, score)
    full = knn(query, bank, k)
    want = score(full[0]).view(images, -1)
    some = score(dist).view(images, -1)
    assert torch.equal(some.topk(count).values, want.topk(count).values)
    assert torch.equal(some.argmax(1), want.argmax(1))
    known = dist.any(1)
    assert torch.equal(dist[known], full[0][known]) and torch.equal(near[known], full[1][known])
    return ready.work.pairs // len(bank)


@pytest.mark.parametrize("k", [1, 3, 20])  # 20: more than the 64th has rows
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_highest_are_those_of_all(k: int, squared: bool, dtype: torch.dtype) -> None:
    bank, query = rows(1200, 0).to(dtype), rows(IMAGES * PATCHES, 1).to(dtype)
    query[40] += 3  # one image has a defect
    for count in (1, 9):
        assert check(bank, query, k, count, partial(patch_scores, squared=squared)) < len(query)


def test_where_nothing_can_be_left_out() -> None:
    bank = rows(1200, 0)
    equal = bank[:1].expand(IMAGES * PATCHES, -1)  # all patches alike, and in the bank
    assert check(bank, equal, 1, 1, patch_scores) == len(equal)
    few = rows(50, 0)  # no rows to take bounds from
    assert check(few, rows(90, 1), 3, 2, patch_scores) == 90
    assert check(bank, rows(6, 1), 1, 2, patch_scores) == 6  # of each of three images all two


def test_bounds_allow_for_sums_in_another_order() -> None:
    # Bounds and scores of the same patches: what is summed the other way round must not fall below.
    bank = torch.zeros(64 * 8, 4)  # all rows equal: bounds are the scores themselves
    query = torch.rand(PATCHES, 4, generator=torch.Generator().manual_seed(0))

    def backwards(dist: torch.Tensor) -> torch.Tensor:
        order = dist.flip(1) if len(dist) < PATCHES else dist
        return sum(order.unbind(1), torch.zeros(len(dist))) / dist.shape[1]

    dist, _ = HighestSearch(prepare(bank)).search(query, 7, 1, 1, backwards)
    top = patch_scores(knn(query, bank, 7)[0])
    assert bool(dist.any(1)[top.argmax()])


@pytest.mark.parametrize(("images", "count"), [(0, 1), (4, 1), (3, 31), (3, 0)])
def test_wrong_numbers_are_told(images: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"HighestSearch: 90 patches of {images} images, of each the {count} highest"):
        HighestSearch(prepare(rows(20, 0))).search(rows(90, 1), 1, images, count, patch_scores)
