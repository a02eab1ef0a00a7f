"""Augmented views of training images whose patches can be told apart: what a feature should not depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class View(NamedTuple):
    """change : images [B, 3, H, W] in [0, 1] -> the same.  undo : maps [B, h, w, D] of those -> at the old places."""

    change: Callable[[torch.Tensor], torch.Tensor]
    undo: Callable[[torch.Tensor], torch.Tensor]


def _same(maps: torch.Tensor) -> torch.Tensor:
    return maps


VIEWS = {
    "mirrored": View(lambda images: images.flip(3), lambda maps: maps.flip(2)),
    "darker": View(lambda images: images * 0.9, _same),
    "less contrast": View(lambda images: (images - 0.5) * 0.9 + 0.5, _same),
}


def undone(view: View, features: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Rows [B * h * w, D] of changed images, in the order of the unchanged ones."""
    maps = view.undo(features.view(-1, *grid, features.shape[1]))
    return maps.reshape(features.shape)
