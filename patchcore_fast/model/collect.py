"""Training features in one block of memory, and which image and grid cell each row came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def set_aside(self, images: torch.Tensor) -> Iterator[tuple[FeatureRows, FeatureRows, torch.Tensor]]:
        """The rows of all other images, those of `images` [J], and the numbers of these in their order.

        With one grid nothing is copied but the rows that change places: while the block runs `images` lie at the end of
        the memory, both parts are views of it, and this object must not be used. Images that differ in grid are copied.
        """
        chosen = torch.zeros(len(self.grids), dtype=torch.bool)
        chosen[images] = True
        rest = len(chosen) - int(chosen.sum())
        out = chosen[:rest].nonzero()[:, 0]  # these change places with as many of the last ones
        back = rest + (~chosen[rest:]).nonzero()[:, 0]
        order = torch.arange(len(chosen))
        order[out], order[back] = back, out
        if self.grid is None:
            starts = self.starts
            rows = torch.cat([torch.arange(int(starts[i]), int(starts[i + 1])) for i in order.tolist()])
            cut = int((starts[1:] - starts[:-1])[order[:rest]].sum())
            parts = self.features[rows[:cut]], self.features[rows[cut:]]
            yield self._part(parts[0], order[:rest]), self._part(parts[1], order[rest:]), order[rest:]
            return
        cut = rest * self.grid[0] * self.grid[1]
        pictures = self.features.view(len(chosen), -1, self._block.shape[1])
        _exchange(pictures, out, back)
        try:
            parts = self.features[:cut], self.features[cut:]
            yield self._part(parts[0], order[:rest]), self._part(parts[1], order[rest:]), order[rest:]
        finally:
            _exchange(pictures, out, back)

    def _part(self, features: torch.Tensor, images: torch.Tensor) -> FeatureRows:
        """Rows that are there already, of images of this object."""
        part = FeatureRows(len(images))
        part._block, part.used, part.grids = features, len(features), [self.grids[i] for i in images.tolist()]
        return part


def _exchange(pictures: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> None:
    """Pictures [images, P, D] change places, one pair at a time."""
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        kept = pictures[a].clone()
        pictures[a] = pictures[b]
        pictures[b] = kept
