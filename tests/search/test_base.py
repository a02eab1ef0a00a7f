"""Searches in prepared banks give what `knn` gives in the rows, bit for bit."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.kernels import knn
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.model.layered import scorer_of
from patchcore_fast.model.score import ImageScorer
from patchcore_fast.search import ExactSearch, priced_search, with_price

ROWS, DIM, IMAGE = 2100, 70, 1100  # enough for short rows, from the second image on


def rows(count: int, seed: int) -> torch.Tensor:
    x = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(0, -2, DIM) + 5


def equal(found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_searches_are_those_of_knn(dtype: torch.dtype) -> None:
    bank, support = rows(ROWS, 0).to(dtype), torch.rand(ROWS, generator=torch.Generator().manual_seed(2))
    exact, priced, widened = ExactSearch(bank), priced_search(bank, support, 0.25), with_price(bank, support, 0.25)
    assert priced is not None and priced_search(bank, None, 0.25) is None
    for seed in (3, 4):
        query = rows(IMAGE, seed).to(dtype)
        equal(exact.search(query, 3), knn(query, bank, 3))
        equal(priced(query, 3), knn(torch.nn.functional.pad(query, (0, 1)), widened, 3))
    assert exact.prepared.columns > 0 and exact.prepared is exact.prepared


@pytest.mark.parametrize("scorer", ["distance", "influence", "noising"])
def test_scores_are_those_of_knn(scorer: str) -> None:
    config = PatchCoreConfig(scorer=scorer, image_score="reweighted", price=0.0, noise_draws=2)
    bank = MemoryBank(rows(ROWS, 0), torch.arange(ROWS), config=config.to_dict(), patches=ROWS)
    score, plain = scorer_of(config, bank), ImageScorer(config, bank.features)
    for seed in (3, 4):
        equal(score(rows(IMAGE, seed), 1), plain(rows(IMAGE, seed), 1, bank.features))
    assert bank.exact.prepared.work.pairs > 0
