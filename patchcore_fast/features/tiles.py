"""Images of any size in tiles: the backbone sees one batch of tiles at a time, their features make one grid.

The image is laid on the patch grid, mirrored at its right and lower edge up to the next multiple of the coarsest
stride. Tiles begin at multiples of that stride, so that each of their places is a place of the image's grid; the last
of a row or column is shifted back to end with it. A place takes its features from one tile: neighbours are cut in the
middle of what they share, where both see the most of what is around.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch

from patchcore_fast.features.patchify import FeatureExtractor, PatchFeatures
from patchcore_fast.features.source import FeatureSource


class Span(NamedTuple):
    """One tile along one axis, in pixels: it begins at `start`, and its places in [first, last) are taken."""

    start: int
    first: int
    last: int


def spans(length: int, tile: int, step: int, unit: int) -> list[Span]:
    """The tiles along an axis of `length` pixels, which they cover once.

    Parameters
    ----------
    length, tile, step : multiples of `unit`, tile <= length.  unit : cuts lie on its multiples.
    """
    starts = [*range(0, length - tile, step), length - tile]
    cuts = [(a + b + tile) // 2 // unit * unit for a, b in itertools.pairwise(starts)]
    return [Span(*numbers) for numbers in zip(starts, [0, *cuts], [*cuts, length], strict=True)]


class TiledExtractor(FeatureExtractor):
    """A `FeatureExtractor` for images of any size and aspect.

    Called with images [B, 3, H, W] it gives rows of ceil(H / s) x ceil(W / s) places an image, s being the grid's
    stride: the plain extractor's where an image is no larger than a tile and its sides are multiples of the coarsest.
    Beside the images and the rows it holds one batch of tiles. An image's embedding is the mean of its tiles'.

    Parameters
    ----------
    backbone, options : of a `FeatureExtractor`.
    tile : side in pixels, a multiple of the coarsest stride (the patch of a ViT); None takes images whole, only made
        up to such multiples. A side of an image that is shorter is taken whole, except by networks of one input size.
    overlap : pixels that neighbours share at least.  batch : tiles at a time.

    Raises
    ------
    ValueError : a tile that is no multiple, or not what a network of one input size takes; an overlap that leaves no
        step between tiles.
    """

    def __init__(
        self, backbone: FeatureSource, *options: Any, tile: int | None, overlap: int = 0, batch: int = 16, **named: Any
    ) -> None:
        """Check that tiles and strides fit each other."""
        super().__init__(backbone, *options, **named)
        self.tile, self.batch, self.coarsest = tile, batch, math.lcm(*backbone.reductions)
        aligned = self.fusion in ("interpolated", "graph")
        self.stride = min(backbone.reductions) if aligned else backbone.reductions[0]
        self.fixed = backbone.fixed_size is not None
        self.step = 0
        if tile is None:
            return
        if self.fusion == "graph":
            raise ValueError(
                'TiledExtractor: fusion="graph" looks for neighbours in the whole image, tile must be None'
            )
        if tile % self.coarsest:
            near = tile // self.coarsest * self.coarsest
            hint = " or ".join(str(n) for n in (near, near + self.coarsest) if n)
            raise ValueError(
                f"TiledExtractor: tile must be a multiple of {self.coarsest}, the coarsest stride of {backbone.name}, "
                f"got {tile}: {hint} is near"
            )
        if self.fixed and backbone.fixed_size != (tile, tile):
            raise ValueError(f"TiledExtractor: {backbone.name} takes {backbone.fixed_size} pixels, got the tile {tile}")
        self.step = (tile - overlap) // self.coarsest * self.coarsest
        if overlap < 0 or self.step < 1:
            raise ValueError(
                f"TiledExtractor: overlap must lie in 0..{tile - self.coarsest}, to leave {self.coarsest} pixels "
                f"between tiles of {tile}, got {overlap}"
            )

    def covered(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels of the grid of an image (H, W): up to a patch more at the right and below."""
        return tuple(-(-side // self.stride) * self.stride for side in size)  # type: ignore[return-value]

    def _extract(self, images: torch.Tensor, embed: bool) -> tuple[PatchFeatures, torch.Tensor | None]:
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"TiledExtractor: images must be [B, 3, H, W], got shape {tuple(images.shape)}")
        (tall, down), (wide, across) = (self._axis(side) for side in images.shape[2:])
        places = [(image, y, x) for image in range(len(images)) for y in down for x in across]
        height, width = (side // self.stride for side in self.covered((images.shape[2], images.shape[3])))
        out: torch.Tensor | None = None
        total = torch.zeros(len(images), self.embedding_columns, device=self.backbone.mean.device)
        for first in range(0, len(places), self.batch):
            chosen = places[first : first + self.batch]
            cut = [_cut(images[i], y.start, x.start, tall, wide) for i, y, x in chosen]
            (features, (h, w)), embeddings = super()._extract(torch.stack(cut), embed)
            if (h * self.stride, w * self.stride) != (tall, wide):
                raise ValueError(
                    f"TiledExtractor: {self.backbone.name} gave {h} x {w} places for a tile of {tall} x {wide} pixels, "
                    f"its stride {self.stride} does not"
                )
            if out is None:
                out = features.new_empty(len(images), height, width, features.shape[1])
            for at, (i, y, x) in enumerate(chosen):
                part = features.view(len(chosen), h, w, -1)[at]
                here = out[i, y.first // self.stride : y.last // self.stride,
                           x.first // self.stride : x.last // self.stride]  # fmt: skip
                top, left = (y.first - y.start) // self.stride, (x.first - x.start) // self.stride
                if embeddings is not None:
                    total[i] += embeddings[at]
                here.copy_(part[top : top + here.shape[0], left : left + here.shape[1]])
        assert out is not None
        tiles = len(down) * len(across)
        return PatchFeatures(out.view(-1, out.shape[3]), (height, width)), total / tiles if embed else None

    def _axis(self, side: int) -> tuple[int, list[Span]]:
        """Side of the tiles along an axis, and the tiles."""
        length = -(-side // self.coarsest) * self.coarsest
        if self.tile is None or (length <= self.tile and not self.fixed):
            return length, [Span(0, 0, length)]
        length = max(length, self.tile)
        return self.tile, spans(length, self.tile, self.step, self.stride)


def _cut(image: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    """[3, height, width] of an image [3, H, W], mirrored where it ends; the image itself is never copied."""
    for axis, start, size in ((1, top, height), (2, left, width)):
        side = image.shape[axis]
        if start + size <= side:
            image = image.narrow(axis, start, size)
        else:
            at = torch.arange(start, start + size, device=image.device) % max(2 * side - 2, 1)
            image = image.index_select(axis, torch.minimum(at, 2 * side - 2 - at))
    return image
