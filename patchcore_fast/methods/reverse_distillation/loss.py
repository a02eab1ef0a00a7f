"""How far the student's maps are from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = ("map", "position")


def distillation_loss(teacher: Sequence[Tensor], student: Sequence[Tensor], kind: str = "map") -> Tensor:
    """The sum over layers of 1 - cos between maps [B, C, h, w], the mean over the batch.

    kind : "map", one cosine of the whole flattened map of an image (the public code); "position", the mean of the
        cosines over the places of a map (Eq. 1 and 2 of the paper).
    """
    if kind not in LOSSES:
        raise ValueError(f'distillation_loss: kind must be "map" or "position", got {kind!r}')
    if kind == "position":
        terms = [distance(t, s).mean() for t, s in zip(teacher, student, strict=True)]
    else:
        pairs = zip(teacher, student, strict=True)
        terms = [(1 - F.cosine_similarity(t.flatten(1), s.flatten(1))).mean() for t, s in pairs]
    return torch.stack(terms).sum()


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - cos at every place of maps [B, C, h, w]: [B, h, w]."""
    return 1 - F.cosine_similarity(teacher, student)


def summed(distances: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Distances [B, h_l, w_l] of all layers, up-sampled to `size` with corners aligned (the public code) and added:
    [B, H, W]."""
    grown = [F.interpolate(d[:, None], size=size, mode="bilinear", align_corners=True)[:, 0] for d in distances]
    return torch.stack(grown).sum(0)
