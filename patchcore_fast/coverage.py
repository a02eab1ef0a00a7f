"""Where a memory bank comes from, in numbers: how much of the patch grid and how many of the images it knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class BorderShares:
    """What `border_shares` finds.

    Attributes
    ----------
    picked : share of the picks that lie within `margin` patches of their image's border, in [0, 1].
    rows : the same share of all rows: what picks that do not care about the border come to.
    margin : in patches.
    """

    picked: float
    rows: float
    margin: int

    @property
    def ratio(self) -> float:
        """picked / rows: 1 is as expected, 2 twice as many picks at the border as its area; 1 with margin 0."""
        return self.picked / self.rows if self.rows else 1.0

    def to_dict(self) -> dict[str, float]:
        """All of it in plain JSON types."""
        return asdict(self) | {"ratio": self.ratio}


@undisturbed
def border_share(grids: Any, indices: Any = None, margin: int = 1) -> float:
    """Share of rows that lie within `margin` patches of the border of their image, in [0, 1].

    Features at the border see padding instead of picture, so they stand apart, and k-center is drawn to them.

    Parameters
    ----------
    grids : (h, w) of each image in the order of the rows, or an object with such `grids`, as `FeatureRows`.
    indices : [k] row numbers, or [k, 3] positions (image, row, column), k >= 1. None: all rows.
    margin : patches from each side, >= 0; 1 is the outermost ring of cells.

    Raises
    ------
    TypeError : numbers that are no integers.  ValueError : a wrong shape, none, or out of range.
    """
    name = "border_share"
    sizes = _sizes(name, grids)
    if isinstance(margin, bool) or not isinstance(margin, (int, np.integer)) or margin < 0:
        raise ValueError(f"{name}: margin must be an integer of at least 0, got {margin!r}")
    inner = (sizes - 2 * int(margin)).clamp(min=0).prod(1)
    if indices is None:
        return 1.0 - int(inner.sum()) / int(sizes.prod(1).sum())
    image, row, column = _cells(name, indices, sizes)
    h, w = sizes[image].unbind(1)
    nearest = torch.stack([row, column, h - 1 - row, w - 1 - column]).amin(0)
    return float((nearest < int(margin)).double().mean())


@undisturbed
def border_shares(grids: Any, indices: Any, margin: int = 1) -> BorderShares:
    """`border_share` of the picks beside that of all rows; arguments and errors as there."""
    return BorderShares(border_share(grids, indices, margin), border_share(grids, None, margin), int(margin))


def _sizes(name: str, grids: Any) -> Tensor:
    """[images, 2] int64."""
    listed = getattr(grids, "grids", grids)
    if not isinstance(listed, (Sequence, np.ndarray)) or not len(listed):
        raise ValueError(f"{name}: grids must be (h, w) of each image, at least one, got {listed!r}")
    known: dict[Any, tuple[int, int]] = {}  # images by the thousand share a few grids
    for grid in listed:
        key = tuple(grid) if isinstance(grid, (tuple, list, np.ndarray)) else grid
        if key not in known:
            known[key] = checked_grid(name, key)
    return torch.tensor([known[tuple(grid)] for grid in listed], dtype=torch.int64)


def _cells(name: str, indices: Any, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and column [k] of row numbers or positions."""
    given = torch.as_tensor(indices)
    if given.ndim == 2:
        h, w = sizes.amax(0).tolist()
        image, row, column = checked_positions(name, given, (h, w), len(sizes)).unbind(1)
        if bool(((row >= sizes[image, 0]) | (column >= sizes[image, 1])).any()):
            raise ValueError(f"{name}: positions must lie inside their own image's grid, some do not")
    else:
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            raise TypeError(f"{name}: indices must be integers, got {given.dtype}")
        if given.ndim != 1:
            raise ValueError(f"{name}: indices must be [k] rows or [k, 3] positions, got shape {tuple(given.shape)}")
        numbers, ends = given.detach().cpu().long(), sizes.prod(1).cumsum(0)
        total = int(ends[-1])
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= total):
            raise ValueError(
                f"{name}: indices must lie in [0, {total}), got {int(numbers.min())} to {int(numbers.max())}"
            )
        image = torch.searchsorted(ends, numbers, right=True)
        cell = numbers - (ends - sizes.prod(1))[image]
        row, column = cell // sizes[image, 1], cell % sizes[image, 1]
    if not len(given):
        raise ValueError(f"{name}: indices must hold at least one row, got none")
    return image, row, column


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
