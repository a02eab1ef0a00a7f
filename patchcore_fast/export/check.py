"""Do the written files give the model's numbers? They are loaded again and run, before they get their name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from patchcore_fast.errors import BankError
from patchcore_fast.export.formats import Run
from patchcore_fast.methods.base import Method

if TYPE_CHECKING:
    from patchcore_fast.model import PatchCore

TOLERANCE = 1e-4
# Largest relative difference that is let through. What half precision and INT8 cost is not decided by it, but by the
# AUROC on images of the user's own; these limits tell a file that is broken.
TOLERANCES = {"fp32": TOLERANCE, "fp16": 0.02, "int8": 0.5}
PRECISIONS = tuple(TOLERANCES)


class Difference(NamedTuple):
    """How far a file's numbers are from the model's.

    score : largest |exported - model| / |model| of an image score.  map : largest difference of a map's pixel, by the
    largest value of the model's map of that image. Of "fp16" and "int8" both are by the largest value of all images.
    images : how many were compared.
    image_auroc, pixel_auroc : (model's, file's) on a labelled set; None without one, or where it has not both classes.
    tested : images of that set.
    """

    score: float
    map: float
    images: int
    image_auroc: tuple[float, float] | None = None
    pixel_auroc: tuple[float, float] | None = None
    tested: int = 0


def exact(model: PatchCore | Method) -> PatchCore | Method:
    """The model with exact search, as files have it; nothing is copied."""
    found = copy.copy(model)  # shares everything but the bank's index
    if not isinstance(found, Method):
        found._bank, found._scorer = found.bank.with_index("exact"), None
    return found


def check_images(size: tuple[int, int], images: torch.Tensor | None = None) -> torch.Tensor:
    """The images to compare on, [B, 3, *size] float32: those given, checked; or three seeded ones, smooth to rough."""
    if images is None:
        generator = torch.Generator().manual_seed(0)
        sides = [(4, 4), (max(1, size[0] // 8), max(1, size[1] // 8)), size]
        coarse = [torch.rand(1, 3, *side, generator=generator) for side in sides]
        return torch.cat([F.interpolate(c, size=size, mode="bilinear", align_corners=False) for c in coarse])
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, *size) or not len(images):
        raise ValueError(f"export: images must be [B, 3, {size[0]}, {size[1]}], got shape {tuple(images.shape)}")
    return images.float()


def compare(
    model: PatchCore | Method, run: Run, images: Sequence[torch.Tensor], tolerance: float = TOLERANCE
) -> Difference:
    """Largest differences between a written model and the model with exact search.

    images : batches [B, 3, H, W], each run as one batch and image by image.

    Raises
    ------
    BankError : one is above the tolerance, or not a number.
    """
    reference = exact(model)
    worst_score = worst_map = 0.0
    for batch in images:
        expected = reference.predict(batch)
        scores = np.array([p.score for p in expected], np.float64)
        maps = np.stack([p.anomaly_map for p in expected]).astype(np.float64)
        size, top = np.maximum(np.abs(scores), 1e-12), np.maximum(np.abs(maps).max(axis=(1, 2)), 1e-12)
        if tolerance > TOLERANCE:  # what rounding changes does not shrink with the score
            size, top = np.full_like(size, size.max()), np.full_like(top, top.max())
        alone = [run(image) for image in batch.split(1)]
        for got_scores, got_maps in (run(batch), (torch.cat([s for s, _ in alone]), torch.cat([m for _, m in alone]))):
            score = np.abs(got_scores.double().numpy() - scores) / size
            apart = np.abs(got_maps.double().numpy() - maps).max(axis=(1, 2)) / top
            # max() of Python would lose a NaN
            worst_score, worst_map = float(np.max([worst_score, *score])), float(np.max([worst_map, *apart]))
    found = Difference(worst_score, worst_map, sum(map(len, images)))
    if not (found.score <= tolerance and found.map <= tolerance):  # NaN fails this too
        raise BankError(
            f"export: the file gives other numbers than the model: scores differ by {found.score:.2g}, maps by "
            f"{found.map:.2g} (relative; {tolerance:g} is allowed)"
        )
    return found
