"""Synthetic defects on photographs of any size and colour: the demo's generator, at a random place and size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.demo.defects import MAKERS, make_defect
from patchcore_fast.errors import DataError

KINDS = tuple(MAKERS)
SIZES = (0.4, 1.0)  # sides of the square that a defect is made for, of the image's shorter side
LEAST = 32  # pixels of that square: below it the shapes are no shapes
TRIES = 20

Image = NDArray[np.float32]  # [3, H, W] in [0, 1]


def with_defect(image: Image, donor: Image, kind: str, index: int, rng: Any) -> tuple[Image, NDArray[np.bool_]]:
    """A copy of a photograph with one defect, and where it is.

    The defect is made for the grey values of a square at a random place, and what it changes there is added to all
    three channels.

    Parameters
    ----------
    image : [3, H, W] float32 in [0, 1].
    donor : another photograph of the same shape: "foreign" sets a piece of it, turned, into the surface.
    kind : one of `KINDS`.  index : light and dark variants alternate with it.
    rng : seed or `numpy.random.Generator`; equal seeds give equal defects.

    Returns
    -------
    image [3, H, W] float32 in [0, 1], mask [H, W] bool with at least one pixel.

    Raises
    ------
    ValueError : shapes that differ, or are no photograph's.  DataError : nothing shows on this image.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.shape != donor.shape:
        raise ValueError(f"with_defect: image and donor must be [3, H, W], got {image.shape} and {donor.shape}")
    rng = np.random.default_rng(rng)
    height, width = image.shape[1:]
    shorter = min(height, width)
    for _ in range(TRIES):
        side = min(shorter, max(LEAST, round(shorter * rng.uniform(*SIZES))))
        (top, left), (y, x) = ([int(rng.integers(0, s - side + 1)) for s in (height, width)] for _ in range(2))
        square = (slice(None), slice(top, top + side), slice(left, left + side))
        tile = image[square].mean(0, dtype=np.float64)
        other = np.rot90(donor[:, y : y + side, x : x + side].mean(0, dtype=np.float64))
        made, mask = make_defect(kind, tile, other, index, rng)
        if mask.any():
            changed, where = image.copy(), np.zeros((height, width), bool)
            changed[square] = np.clip(image[square] + (made - tile), 0, 1)
            where[square[1:]] = mask
            return changed, where
    raise DataError(f'with_defect: no defect "{kind}" shows on this image in {TRIES} tries')
