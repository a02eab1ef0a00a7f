"""Training features in one block of memory, and which image and grid cell each row came from."""

from __future__ import annotations

import torch


class FeatureRows:
    """Rows [N, D] gathered batch by batch on the CPU, in the type that the first batch has.

    With the count of images known the block is allocated once, after the first batch shows how many rows an
    image has; otherwise it doubles. Images may differ in grid.

    Parameters
    ----------
    count : number of images to come, or None.
    """

    def __init__(self, count: int | None) -> None:
        """Nothing is allocated yet."""
        self.count, self.used = count, 0
        self.grids: list[tuple[int, int]] = []
        self._block = torch.empty(0, 0)

    def add(self, features: torch.Tensor, grid: tuple[int, int]) -> None:
        """Append rows [B * h * w, D] of B images with the grid (h, w)."""
        images = len(features) // (grid[0] * grid[1])
        if self.used == 0:
            images_ahead = max(images, self.count or 0)
            self._block = torch.empty(images_ahead * grid[0] * grid[1], features.shape[1], dtype=features.dtype)
        if self.used + len(features) > len(self._block):
            wanted = max(2 * len(self._block), self.used + len(features))
            larger = torch.empty(wanted, features.shape[1], dtype=self._block.dtype)
            larger[: self.used] = self._block[: self.used]
            self._block = larger
        self._block[self.used : self.used + len(features)] = features
        self.used += len(features)
        self.grids += [grid] * images

    @property
    def features(self) -> torch.Tensor:
        """All rows so far, [N, D]; a view."""
        return self._block[: self.used]

    @property
    def starts(self) -> torch.Tensor:
        """[images + 1] int64: rows starts[i] to starts[i + 1] are those of image i."""
        sizes = torch.tensor([0] + [h * w for h, w in self.grids])
        return sizes.cumsum(0)

    @property
    def grid(self) -> tuple[int, int] | None:
        """The common grid, None when images differ."""
        return self.grids[0] if len(set(self.grids)) == 1 else None

    def positions(self, indices: torch.Tensor) -> torch.Tensor:
        """(image, row, column) of rows [M], as [M, 3] int32."""
        starts = self.starts
        image = torch.searchsorted(starts, indices, right=True) - 1
        width = torch.tensor([w for _, w in self.grids])[image]
        cell = indices - starts[image]
        return torch.stack([image, cell // width, cell % width], dim=1).int()
