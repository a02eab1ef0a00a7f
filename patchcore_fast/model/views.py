"""Augmented views of training images whose patches can be told apart: what a feature should not depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch


class View(NamedTuple):
    """change : images [B, 3, H, W] in [0, 1] -> the same.  undo : maps [B, h, w, D] of those -> at the old places."""

    change: Callable[[torch.Tensor], torch.Tensor]
    undo: Callable[[torch.Tensor], torch.Tensor]


def _same(maps: torch.Tensor) -> torch.Tensor:
    return maps


def _turned(quarters: int) -> View:
    return View(lambda images: images.rot90(quarters, (2, 3)), lambda maps: maps.rot90(-quarters, (1, 2)))


MIRRORED = View(lambda images: images.flip(3), lambda maps: maps.flip(2))
VIEWS = {
    "mirrored": MIRRORED,
    "darker": View(lambda images: images * 0.9, _same),
    "less contrast": View(lambda images: (images - 0.5) * 0.9 + 0.5, _same),
}
ROTATIONS = {f"turned by {90 * quarters} degrees": _turned(quarters) for quarters in (1, 2, 3)}
FLIPS = {"mirrored": MIRRORED, "upside down": View(lambda images: images.flip(2), lambda maps: maps.flip(1))}
KINDS = {"mixed": VIEWS, "rotations": ROTATIONS, "flips": FLIPS, "both": ROTATIONS | FLIPS}


def views_of(sampler: Any) -> Mapping[str, View]:
    """The views that a sampler asks for: none without instability="views"; which, its `view_kinds` says ("mixed").

    ValueError: no kind of KINDS.
    """
    if getattr(sampler, "instability", None) != "views":
        return {}
    kinds = getattr(sampler, "view_kinds", "mixed")
    if kinds not in KINDS:
        raise ValueError(f"PatchCore.fit: view_kinds of the sampler must be one of {', '.join(KINDS)}, got {kinds!r}")
    return KINDS[kinds]


def undone(
    view: View, features: torch.Tensor, grid: tuple[int, int], place: tuple[int, int] | None = None
) -> torch.Tensor:
    """Rows [B * h * w, D] of changed images, in the order of the unchanged ones.

    Parameters
    ----------
    grid : (h, w) of the changed images.  place : of the unchanged ones, the same when None.

    Raises
    ------
    ValueError : the rows, put back, do not lie on the grid of the unchanged images.
    """
    maps = view.undo(features.view(-1, *grid, features.shape[1]))
    if tuple(maps.shape[1:3]) != (place or grid):
        raise ValueError(
            f"PatchCore.fit: turned images have {grid[0]} x {grid[1]} patches, which are not those of {place}: "
            'take view_kinds="flips"'
        )
    return maps.reshape(features.shape)
