"""Views of training images: rows that are back at their places, and which views a sampler is handed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.views import FLIPS, KINDS, ROTATIONS, View, undone, views_of
from patchcore_fast.samplers import make_sampler

EVERY = [pytest.param(view, id=f"{kind}: {name}") for kind, views in KINDS.items() for name, view in views.items()]


def blocks(images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """A network that tells turned images from others: of each 4 x 4 patch its first and its last pixel."""
    found = torch.cat([images[:, :, ::4, ::4], images[:, :, 3::4, 3::4]], dim=1).permute(0, 2, 3, 1)
    return found.reshape(-1, 6), (found.shape[1], found.shape[2])


@pytest.mark.parametrize("view", EVERY)
@pytest.mark.parametrize("size", [(12, 12), (8, 20)], ids=["square", "wide"])
def test_rows_come_back_to_their_places(view: View, size: tuple[int, int]) -> None:
    """A mark in one patch of each image, wherever the view moves it, is in that patch's row."""
    grid = (size[0] // 4, size[1] // 4)
    for place in range(grid[0] * grid[1]):
        images = torch.full((2, 3, *size), 0.5)
        y, x = 4 * (place // grid[1]), 4 * (place % grid[1])
        images[1, :, y : y + 4, x : x + 4] = 1.0
        rows, seen = blocks(view.change(images))
        back = undone(view, rows, seen, grid)
        brightest = back.view(2, -1, 6)[1].sum(1)
        assert back.shape == rows.shape and int(brightest.argmax()) == place
        assert (brightest == brightest.max()).sum() == 1


def test_each_view_is_another() -> None:
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    made = [view.change(images) for view in (ROTATIONS | FLIPS).values()]
    assert len(made) == len(KINDS["both"]) == 5
    assert not any(torch.equal(a, b) for i, a in enumerate([images, *made]) for b in made[i:])


def test_a_grid_that_does_not_turn_with_the_image_is_refused() -> None:
    quarter = ROTATIONS["turned by 90 degrees"]
    with pytest.raises(ValueError, match=r'turned images have 2 x 5 patches, .* of \(2, 5\): take view_kinds="flips"'):
        undone(quarter, torch.rand(10, 6), (2, 5), (2, 5))


def test_which_views_a_sampler_asks_for() -> None:
    assert views_of(make_sampler("greedy")) == views_of(object()) == {}
    for kind in KINDS:
        options: dict[str, Any] = {"w_unc": 1.0, "instability": "views", "view_kinds": kind}
        assert views_of(make_sampler("elfs", options=options)) is KINDS[kind]
    sampler: Any = make_sampler("elfs", options={"w_unc": 1.0, "instability": "views"})
    assert views_of(sampler) is KINDS["mixed"]
    sampler.view_kinds = "flip"
    with pytest.raises(ValueError, match="view_kinds of the sampler must be one of mixed, rotations, flips, both, got"):
        views_of(sampler)


@pytest.mark.parametrize("kinds", ["flips", "rotations"])
def test_the_pipeline_hands_over_the_views_of_the_settings(kinds: str) -> None:
    images = torch.rand(3, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    config = PatchCoreConfig(
        backbone="test_resnet", layers=(1,), weights="random", device="cpu", ratio=0.2, sampler="elfs",
        sampler_options={"w_unc": 2.0, "instability": "views", "view_kinds": kinds},
    )  # fmt: skip
    model = PatchCore(config, progress=False).fit(images)
    sampler: Any = make_sampler("elfs", 0.2, device="cpu", options=dict(config.sampler_options))
    plain = PatchCore(config.replace(sampler="random", sampler_options=()), progress=False)
    rows = plain.training_features(images)
    seen = []
    for view in KINDS[kinds].values():
        found = plain.training_features(view.change(images))
        seen.append(undone(view, found.features, found.grid, rows.grid))
    picks = sampler.select(rows.features, views=seen, positions=rows.positions(torch.arange(rows.total)))
    assert torch.equal(model.bank.indices, picks)
    assert model.bank.config["selection"]["sampler_options"]["view_kinds"] == kinds
