"""Where a memory bank comes from, in numbers: how much of the patch grid and how many of the images it knows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchcore_fast.kernels.surroundings import undisturbed


@dataclass(frozen=True, eq=False)
class Coverage:
    """What `spatial_coverage` finds. With n cells, m images, M bank patches and H(p) = -sum p ln p:

    Attributes
    ----------
    counts : [h, w] int64, bank patches at each grid cell, over all images.
    share : cells with counts > 0, divided by n.
    entropy : H(counts / M) / ln n, 1 when all cells occur equally often, 0 when one cell is all; 1 for a grid of one
        cell. A bank of M < n patches cannot exceed ln M / ln n.
    per_image : [m] int64, bank patches from each image.
    effective_images : exp(H(per_image / M)): as even as this many images with equal parts, from 1 to m.
    empty_images : images without any bank patch.
    """

    counts: Tensor  # [h, w]
    share: float
    entropy: float
    per_image: Tensor  # [m]
    effective_images: float
    empty_images: int

    @property
    def patches(self) -> int:
        """M."""
        return int(self.counts.sum())

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain JSON types."""
        return {
            "grid": list(self.counts.shape),
            "share": self.share,
            "entropy": self.entropy,
            "effective_images": self.effective_images,
            "empty_images": self.empty_images,
            "counts": self.counts.tolist(),
            "per_image": self.per_image.tolist(),
        }


@undisturbed
def spatial_coverage(positions: Any, images: int, grid: tuple[int, int]) -> Coverage:
    """How a bank spreads over the patch grid and over the images; the formulas are those of `Coverage`.

    Parameters
    ----------
    positions : [M, 3] integer ndarray or Tensor, (image, row, column) of each bank patch, M >= 1.
    images : number of training images m; those that gave no patch count too.
    grid : (h, w), patches of an image.

    Raises
    ------
    TypeError : positions that are no integers.  ValueError : a wrong shape, no rows, or positions out of range.
    """
    h, w = checked_grid("spatial_coverage", grid)
    if isinstance(images, bool) or not isinstance(images, (int, np.integer)) or images < 1:
        raise ValueError(f"spatial_coverage: images must be a positive integer, got {images!r}")
    where = checked_positions("spatial_coverage", positions, (h, w), int(images))
    if not len(where):
        raise ValueError("spatial_coverage: positions must have at least one row, got none")
    counts = torch.bincount(where[:, 1] * w + where[:, 2], minlength=h * w)
    per_image = torch.bincount(where[:, 0], minlength=int(images))
    return Coverage(
        counts=counts.view(h, w),
        share=float((counts > 0).double().mean()),
        entropy=_entropy(counts) / math.log(h * w) if h * w > 1 else 1.0,
        per_image=per_image,
        effective_images=math.exp(_entropy(per_image)),
        empty_images=int((per_image == 0).sum()),
    )


def _entropy(counts: Tensor) -> float:
    """H of counts / sum, in nats; a place that never occurs adds nothing."""
    p = counts[counts > 0].double() / counts.sum()
    return max(float(-(p * p.log()).sum()), 0.0)


def checked_grid(name: str, grid: Any) -> tuple[int, int]:
    """(h, w) as two positive integers; ValueError otherwise."""
    good = isinstance(grid, (tuple, list)) and len(grid) == 2
    if not good or any(isinstance(s, bool) or not isinstance(s, (int, np.integer)) or s < 1 for s in grid):
        raise ValueError(f"{name}: grid must be two positive integers (h, w), got {grid!r}")
    return int(grid[0]), int(grid[1])


def checked_positions(name: str, positions: Any, grid: tuple[int, int], images: int | None = None) -> Tensor:
    """[M, 3] int64 CPU tensor with every row inside the grid and, where their number is given, the images."""
    where = torch.as_tensor(positions)
    if where.is_floating_point() or where.is_complex() or where.dtype == torch.bool:
        raise TypeError(f"{name}: positions must be integers (image, row, column), got {where.dtype}")
    if where.ndim != 2 or where.shape[1] != 3:
        raise ValueError(f"{name}: positions must be [M, 3] (image, row, column), got shape {tuple(where.shape)}")
    where = where.detach().cpu().long()
    for column, (what, size) in enumerate((("image", images), ("row", grid[0]), ("column", grid[1]))):
        values = where[:, column]
        if len(values) and (int(values.min()) < 0 or (size is not None and int(values.max()) >= size)):
            wanted = "be at least 0" if size is None else f"lie in [0, {size})"
            raise ValueError(f"{name}: {what} must {wanted}, got {int(values.min())} to {int(values.max())}")
    return where
