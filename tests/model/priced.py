"""Models with a price on a few made-up images, and what they give, in float64: for the tests of pricing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore
from patchcore_fast.model.layered import scorer_of

from ..evaluated import tiny_config

SIDE = 32


def images(count: int, seed: int = 0) -> Tensor:
    """Noise of many sizes: images differ, so that rows do too."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.rand(count, 3, n, n, generator=generator) for n in (2, 8, SIDE)]
    return sum(torch.nn.functional.interpolate(part, size=SIDE) for part in parts) / 3


TRAIN, TEST = images(5), images(3, seed=1)


def settings(**changes: Any) -> Any:
    return tiny_config(**({"image_size": SIDE, "price": 2.0} | changes))


def fitted(train: Tensor = TRAIN, given: Any = None, **changes: Any) -> PatchCore:
    return PatchCore(settings(**changes), given, progress=False).fit(train)


def table(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def to_others(chosen: Tensor, rows: Tensor, image: Tensor) -> Tensor:
    """Distances [M] float64 of some rows, by number, to the nearest of another image."""
    away = table(rows[chosen], rows)
    away[image[chosen][:, None] == image[None]] = torch.inf
    return away.amin(dim=1)


def priced(x: Tensor, bank: MemoryBank, price: float) -> Tensor:
    """Distances [Q, M] float64 with the price; it is rounded as the rows are."""
    assert bank.support is not None
    column = (bank.support.double() * price).to(bank.features.dtype).double()
    return (table(x, bank.features).square() + column.square()).sqrt()


def formula(x: Tensor, bank: MemoryBank, price: float, k: int = 3) -> Tensor:
    return priced(x, bank, price).sort(dim=1).values[:, :k].mean(dim=1)


def patches(model: PatchCore, test: Tensor = TEST) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the test images, their patch scores [Q] and the image scores [B]."""
    rows = model.training_features(test).features
    scores, found = scorer_of(model.config, model.bank)(rows, len(test))
    return rows, found.reshape(-1), scores


def images_of(model: PatchCore, train: Tensor = TRAIN) -> tuple[Tensor, Tensor]:
    """Training rows [N, D] and the image of each."""
    rows = model.training_features(train)
    return rows.features, rows.positions(torch.arange(rows.total))[:, 0]
