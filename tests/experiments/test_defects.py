"""Defects on photographs: where the mask says, nowhere else, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from patchcore_fast.errors import DataError
from patchcore_fast.experiments.defects import KINDS, with_defect


def photograph(seed: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.2, 0.8, (3, *shape)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_the_mask_marks_changes(kind):
    image, donor = photograph(0), photograph(1)
    before = image.copy()
    made, mask = with_defect(image, donor, kind, 0, 7)
    again, same = with_defect(image, donor, kind, 0, 7)
    assert (image == before).all() and made.dtype == np.float32 and made.shape == image.shape
    assert (made == again).all() and (mask == same).all()
    assert mask.shape == image.shape[1:] and 0 < mask.mean() < 0.6
    assert (made[:, ~mask] == image[:, ~mask]).all()
    assert made.min() >= 0 and made.max() <= 1
    assert (made[:, mask] != image[:, mask]).any()


def test_grey_stays_grey_and_another_seed_is_another_place():
    image = np.repeat(photograph(0)[:1], 3, axis=0)
    made, mask = with_defect(image, image, "dent", 0, 1)
    assert (made[0] == made[1]).all()
    assert (with_defect(image, image, "dent", 0, 2)[1] != mask).any()


@pytest.mark.parametrize("shape", [(32, 32), (40, 200), (33, 32)], ids=str)
def test_small_and_long_images(shape):
    for kind in KINDS:
        _, mask = with_defect(photograph(2, shape), photograph(3, shape), kind, 1, 3)
        assert mask.any()


def test_what_is_no_photograph_is_refused():
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        with_defect(photograph(0), photograph(0, (48, 48)), "dent", 0, 0)
    with pytest.raises(ValueError, match="kind must be"):
        with_defect(photograph(0), photograph(1), "rust", 0, 0)


def test_an_image_on_which_nothing_shows_is_told(monkeypatch):
    from patchcore_fast.experiments import defects

    monkeypatch.setattr(defects, "make_defect", lambda kind, tile, *_: (tile, np.zeros(tile.shape, bool)))
    with pytest.raises(DataError, match="shows"):
        with_defect(photograph(0), photograph(1), "dent", 0, 0)
