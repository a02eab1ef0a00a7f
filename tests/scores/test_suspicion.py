"""Suspicion of images: distances to other images against full tables, planted defects, and its corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from patchcore_fast.scores import nearest_images, support, suspicion

from ..patches import fields, plant, positions

GRID = (5, 6)


def by_image(x, image):
    return ((numbers, x[numbers], i) for i in range(int(image.max()) + 1) for numbers in [(image == i).nonzero()[:, 0]])


@pytest.mark.parametrize("images", [3, 8, 40])
@pytest.mark.parametrize("keep", [1, 3, 9])
def test_the_nearest_images_are_those_of_the_full_table(images, keep):
    x = fields(images, GRID)
    image = positions(images, GRID)[:, 0]
    asked = torch.arange(0, len(x), 7)
    found = nearest_images(x[asked], image[asked], by_image(x, image), keep)
    table = torch.cdist(x[asked].double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    lowest = table.view(len(asked), images, -1).amin(2)
    lowest[torch.arange(len(asked)), image[asked]] = math.inf
    wanted = lowest.sort(1).values[:, :keep]
    there = min(keep, images - 1)
    assert found.distance.shape == found.row.shape == (len(asked), keep)
    torch.testing.assert_close(found.distance[:, :there].double(), wanted[:, :there], rtol=1e-6, atol=1e-6)
    assert (found.distance[:, there:] == math.inf).all() and (found.row[:, there:] == -1).all()
    rows = found.row[:, :there]
    assert torch.equal(table.gather(1, rows).float(), found.distance[:, :there])
    assert (image[rows] != image[asked][:, None]).all()
    assert all(len(set(line)) == there for line in image[rows].tolist()), "each image once"


def test_planted_defects_come_first_and_the_parts_are_named():
    x, where = fields(30, GRID), positions(30, GRID)
    planted = plant(x, GRID, [4, 11, 23])
    found = suspicion(x, positions=where, representatives=8)
    assert set(found.order[:3].tolist()) == set(where[planted][:, 0].tolist())
    assert list(found.parts) == ["support", "1 image", "3 images", "9 images"]
    assert torch.equal(found.parts["support"], support(x, positions=where, representatives=8).deviation)
    assert found.value.shape == (30,) and float(found.value.min()) >= 0 and float(found.value.max()) <= 1


def test_the_value_is_the_mean_share_of_images_that_are_lower():
    x, where = fields(12, GRID, seed=3), positions(12, GRID)
    found = suspicion(x, positions=where, representatives=8)
    ranks = [[sum(other < v for other in part.tolist()) / 11 for v in part.tolist()] for part in found.parts.values()]
    assert found.value.tolist() == pytest.approx(np.mean(ranks, axis=0).tolist())


def test_nine_neighbours_find_what_two_images_share():
    """The same defect in two images: one neighbour calls both supported."""
    x, where = fields(30, GRID, seed=1), positions(30, GRID)
    direction = torch.ones(x.shape[1])
    for image in (7, 19):
        x[image * 30 + 8] = 14 * direction
    found = suspicion(x, positions=where, representatives=8)
    place = {name: part.argsort(descending=True).tolist() for name, part in found.parts.items()}
    assert set(place["9 images"][:2]) == {7, 19} and place["1 image"].index(7) > 5


def test_equal_images_are_equally_suspicious_and_stay_in_order():
    x = torch.zeros(4 * 30, 8)
    found = suspicion(x, positions=positions(4, GRID), representatives=2)
    assert found.value.tolist() == [0.5] * 4 and found.order.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("images", [3, 5])
def test_few_images_have_fewer_neighbours(images):
    found = suspicion(fields(images, GRID), positions=positions(images, GRID), representatives=4)
    assert torch.isfinite(torch.stack(list(found.parts.values()))).all()
    assert torch.equal(found.parts["9 images"], found.parts["3 images"]) or images == 5


def test_the_order_of_the_images_and_other_draws_change_nothing():
    x, where = fields(20, GRID, seed=2), positions(20, GRID)
    plant(x, GRID, [3])
    state = torch.get_rng_state()
    first = suspicion(x, positions=where, representatives=8)
    assert torch.equal(torch.get_rng_state(), state)
    turned = x.view(20, -1, x.shape[1]).flip(0).reshape(x.shape)
    again = suspicion(turned, positions=where, representatives=8)
    assert int(first.order[0]) == 3 and int(again.order[0]) == 16
    for name in ("1 image", "3 images", "9 images"):  # the coreset of "support" begins at the first row
        torch.testing.assert_close(first.parts[name], again.parts[name].flip(0))


def test_two_images_are_refused():
    with pytest.raises(ValueError, match="at least 3 images are wanted, got 2"):
        suspicion(fields(2, GRID), positions=positions(2, GRID))
