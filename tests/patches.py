"""Patch features as a network gives them, small: smooth random fields on a grid, neighbours overlapping."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale


def fields(images: int, grid: tuple[int, int], d: int = 8, seed: int = 0) -> Tensor:
    """[images * h * w, d] float32, image by image, line by line; white noise averaged over 3 x 3 patches."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images, d, grid[0] + 2, grid[1] + 2, generator=generator)
    return (3 * F.avg_pool2d(noise, 3, 1)).permute(0, 2, 3, 1).reshape(-1, d).contiguous()


def positions(images: int, grid: tuple[int, int]) -> Tensor:
    """[images * h * w, 3] int64 (image, row, column) of `fields`."""
    axes = (torch.arange(images), torch.arange(grid[0]), torch.arange(grid[1]))
    return torch.cartesian_prod(*axes)


def plant(x: Tensor, grid: tuple[int, int], images: list[int], size: int = 2, far: float = 12.0) -> Tensor:
    """Add a defect of size x size patches to these images, each in a direction of its own; [N] bool, where they are."""
    generator = torch.Generator().manual_seed(1234)
    h, w = grid
    planted = torch.zeros(x.shape[0], dtype=torch.bool)
    for image in images:
        direction = torch.randn(x.shape[1], generator=generator)
        top = int(torch.randint(h - size + 1, (1,), generator=generator))
        left = int(torch.randint(w - size + 1, (1,), generator=generator))
        rows = [image * h * w + i * w + j for i in range(top, top + size) for j in range(left, left + size)]
        x[rows] += far * direction / direction.norm()
        planted[rows] = True
    return planted
