"""Which image and grid cell a row came from: as given, or read off the order of the rows."""

import numpy as np
import pytest
import torch

from patchcore_fast.scores import Layout

from ..patches import fields, plant, positions


def test_image_ids_are_numbered_by_first_appearance():
    layout = Layout.of("f", 7, image_ids=[70, -3, 70, 9, 9, -3, 70])
    assert layout.image.tolist() == [0, 1, 0, 2, 2, 1, 0] and layout.names.tolist() == [70, -3, 9]
    assert layout.images == 3 and layout.row is None and layout.column is None and layout.source == "given"
    assert list(layout.given()) == ["image_ids"] and layout.given()["image_ids"].tolist() == [70, -3, 70, 9, 9, -3, 70]


@pytest.mark.parametrize(
    "make", [np.asarray, torch.as_tensor, lambda p: torch.as_tensor(p).int(), lambda p: p.tolist()]
)
def test_positions_give_images_rows_and_columns(make):
    where = np.array([[5, 0, 3], [2, 1, 0], [5, 4, 4], [2, 0, 0]])
    layout = Layout.of("f", 4, positions=make(where))
    assert layout.image.tolist() == [0, 1, 0, 1] and layout.names.tolist() == [5, 2]
    assert layout.row.tolist() == [0, 1, 4, 0] and layout.column.tolist() == [3, 0, 4, 0]
    again = Layout.of("f", 4, **layout.given())
    assert torch.equal(again.image, layout.image) and torch.equal(again.row, layout.row)
    both = Layout.of("f", 4, image_ids=where[:, 0], positions=make(where))
    assert torch.equal(both.image, layout.image) and torch.equal(both.names, layout.names)


def test_nothing_given_is_no_layout_and_no_rows_are_fine():
    assert Layout.of("f", 5) is None
    assert Layout.of("f", 0, image_ids=torch.empty(0, dtype=torch.int64)).images == 0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"image_ids": [0.0, 1.0, 2.0]}, TypeError, "f: image_ids must be integers, got torch.float32"),
        ({"image_ids": [True, False, True]}, TypeError, "must be integers, got torch.bool"),
        ({"image_ids": "abc"}, TypeError, r"f: image_ids must be integers \[3\], got str"),
        ({"image_ids": [0, 1]}, ValueError, r"f: image_ids must have shape \(3,\).*got \(2,\)"),
        ({"positions": [[0, 0], [0, 1], [1, 0]]}, ValueError, r"f: positions must have shape \(3, 3\).*got \(3, 2\)"),
        ({"positions": [[0, 0, 0], [0, 0, -2], [1, 0, 0]]}, ValueError, "rows and columns >= 0, got -2"),
        ({"image_ids": [0, 1, 1], "positions": [[0, 0, 0], [0, 0, 1], [1, 0, 0]]}, ValueError, "agree, they differ"),
    ],
)
def test_what_does_not_fit_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        Layout.of("f", 3, **given)


@pytest.mark.parametrize(("images", "grid"), [(4, (12, 20)), (6, (8, 8)), (10, (5, 6)), (5, (14, 9)), (30, (6, 7))])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_rows_shows_images_and_grid(images, grid, seed):
    x = fields(images, grid, seed=seed)
    want = positions(images, grid)
    for form in (x, x.numpy(), x.half(), x.double().numpy()):
        layout = Layout.inferred(form)
        assert layout is not None and layout.source == "inferred"
        assert torch.equal(torch.column_stack([layout.image, layout.row, layout.column]), want)
        assert layout.names.tolist() == list(range(images)) and layout.images == images


def test_rows_beyond_those_looked_at_belong_to_images_too():
    grid = (64, 64)
    x = fields(70, grid, d=2)  # 286,720 rows; the first 262,144 are looked at
    layout = Layout.inferred(x)
    assert torch.equal(layout.given()["positions"], positions(70, grid))


@pytest.mark.parametrize("seed", range(4))
def test_no_order_no_layout(seed):
    generator = torch.Generator().manual_seed(seed)
    x = fields(12, (8, 10), seed=seed)
    assert Layout.inferred(x[torch.randperm(len(x), generator=generator)]) is None
    assert Layout.inferred(torch.randn(960, 8, generator=generator)) is None


def test_rows_that_no_grid_divides_are_no_layout():
    x = fields(6, (8, 10))
    assert Layout.inferred(x) is not None
    assert Layout.inferred(x[:479]) is None  # a prime
    assert Layout.inferred(x[:1]) is None and Layout.inferred(x[:0]) is None
    assert Layout.inferred(torch.ones(480, 8)) is None  # every step is 0
    assert Layout.inferred(torch.full((480, 8), torch.nan)) is None


def test_what_is_no_feature_matrix_is_refused():
    with pytest.raises(
        TypeError, match=r"Layout.inferred: features must be an ndarray or torch.Tensor \[N, D\], got list"
    ):
        Layout.inferred([[1.0]])
    with pytest.raises(ValueError, match=r"Layout.inferred: features must be 2-D"):
        Layout.inferred(torch.ones(4))


def test_a_strong_scene_within_images_ends_none_of_them():
    x = fields(16, (8, 10))
    plant(x, (8, 10), [2, 9, 13])  # without a second thought, half images: 32 of 4 x 10
    layout = Layout.inferred(x)
    assert layout is not None and (layout.images, int(layout.row.max()) + 1) == (16, 8)
