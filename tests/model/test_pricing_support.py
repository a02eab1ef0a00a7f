"""The distance of bank rows to other images, which the price goes by, against brute force in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import pricing
from patchcore_fast.samplers import GreedyCoresetSampler
from patchcore_fast.samplers.projection import project
from patchcore_fast.scores import support_distance
from patchcore_fast.scores.foreign import thinned

from .priced import TRAIN, fitted, images_of, table, to_others


@pytest.mark.parametrize("changes", [{}, {"sampler": "random"}, {"sampler": "approximate"}, {"precision": "float16"},
                                     {"metric": "cosine"}, {"fusion": "interpolated", "dim": 16}], ids=str)  # fmt: skip
def test_support_is_that_of_brute_force(changes: dict[str, Any]) -> None:
    model = fitted(**changes)
    rows, image = images_of(model)
    bank = model.bank
    assert isinstance(bank, MemoryBank) and bank.support is not None
    wanted = to_others(bank.indices, rows, image)
    np.testing.assert_allclose(bank.support.numpy(), wanted.numpy(), rtol=1e-6)
    assert float(bank.support.min()) < 0.9 * float(bank.support.max())  # it tells rows apart
    found = support_distance(rows, bank.indices, image_ids=image.long())
    assert torch.equal(found.distance, bank.support)


def test_a_narrower_projection_finds_the_row_and_the_features_its_distance() -> None:
    model = fitted(given=GreedyCoresetSampler(0.2, dimension_to_project_features_to=6, device="cpu"))
    rows, image = images_of(model)
    bank = model.bank
    assert isinstance(bank, MemoryBank) and bank.projection is not None and bank.support is not None
    seen = project(rows, bank.projection, torch.device("cpu"))
    away = table(seen[bank.indices], seen)
    away[image[bank.indices][:, None] == image[None]] = torch.inf
    wanted = (rows[bank.indices].double() - rows[away.argmin(dim=1)].double()).norm(dim=1)
    np.testing.assert_allclose(bank.support.numpy(), wanted.numpy(), rtol=1e-6)
    assert bool((wanted > 1.0001 * to_others(bank.indices, rows, image)).any())


@pytest.mark.parametrize("narrower", [None, 6])
def test_of_many_rows_a_part_is_looked_among(narrower: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(given=GreedyCoresetSampler(0.2, dimension_to_project_features_to=narrower or 128, device="cpu"))
    rows, image = images_of(whole)
    monkeypatch.setattr(pricing, "ENOUGH", len(rows) // 3)
    assert pricing.every_of(len(rows)) == 3 and pricing.every_of(10 * len(rows)) == pricing.EVERY
    assert pricing.every_of(len(rows) // 4) == 1
    bank = fitted(given=GreedyCoresetSampler(0.2, dimension_to_project_features_to=narrower or 128, device="cpu")).bank
    assert isinstance(bank, MemoryBank) and isinstance(whole.bank, MemoryBank)
    assert bank.support is not None and whole.bank.support is not None
    seen = rows if narrower is None else project(rows, bank.projection, torch.device("cpu"))
    away = table(seen[bank.indices], seen)
    away[image[bank.indices][:, None] == image[None]] = torch.inf
    away[:, ~thinned(torch.arange(len(rows)), image, 3)] = torch.inf
    wanted = (rows[bank.indices].double() - rows[away.argmin(dim=1)].double()).norm(dim=1)
    np.testing.assert_allclose(bank.support.numpy(), wanted.numpy(), rtol=1e-6)
    if narrower is None:
        assert bool((bank.support >= whole.bank.support).all()) and bool((bank.support > whole.bank.support).any())


def test_copies_count_as_their_image() -> None:
    model = fitted(TRAIN[:3], augment="rotate", sampler="identity")
    rows = model.training_features(TRAIN[:3])
    image = rows.positions(torch.arange(rows.total))[:, 0] // 4
    bank = model.bank
    assert isinstance(bank, MemoryBank) and bank.support is not None and len(rows.grids) == 12
    wanted = to_others(torch.arange(rows.total), rows.features, image)
    np.testing.assert_allclose(bank.support.numpy(), wanted.numpy(), rtol=1e-6)
