"""Blocks, channels and neighbours of the published networks; one table of numbers."""

from __future__ import annotations

from typing import NamedTuple

SIDE = 224  # pixels: position embeddings are learned for it


class Shape(NamedTuple):
    """What a Vision GNN is made of.

    Attributes
    ----------
    blocks, channels : of each stage. One stage: isotropic, all blocks on one grid. Each further stage halves the grid.
    neighbours : K of the first and of the last block, linear between and rounded down.
    farthest : a block's dilation grows by one every four blocks, up to this.
    reductions : nodes of a stage look for neighbours on a grid this much coarser.
    positions : whether relative positions are added to the squared distances, as the pyramids have it.
    side : of images, in pixels.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    neighbours: tuple[int, int]
    farthest: int
    reductions: tuple[int, ...]
    positions: bool
    side: int = SIDE

    @property
    def pyramid(self) -> bool:
        """Whether it has stages."""
        return len(self.blocks) > 1

    @property
    def stride(self) -> int:
        """Of the grid after the stem, in pixels."""
        return 4 if self.pyramid else 16

    @property
    def layers(self) -> tuple[tuple[str, int, int], ...]:
        """Module, channels and stride of each layer: of every block, or of the last block of every stage."""
        if not self.pyramid:
            return tuple((f"backbone.{i}", self.channels[0], self.stride) for i in range(self.blocks[0]))
        # Before each stage but the first stands the module that halves the grid.
        ends = [sum(self.blocks[: i + 1]) + i - 1 for i in range(len(self.blocks))]
        return tuple((f"backbone.{e}", self.channels[i], self.stride << i) for i, e in enumerate(ends))


def _isotropic(blocks: int, channels: int) -> Shape:
    return Shape((blocks,), (channels,), (9, 18), 196 // 18, (1,), False)


def _pyramid(blocks: tuple[int, ...], *channels: int) -> Shape:
    return Shape(blocks, channels, (9, 9), 49 // 9, (4, 2, 1, 1), True)


SHAPES = {
    "vig_ti": _isotropic(12, 192), "vig_s": _isotropic(16, 320), "vig_b": _isotropic(16, 640),
    "pvig_ti": _pyramid((2, 2, 6, 2), 48, 96, 240, 384), "pvig_s": _pyramid((2, 2, 6, 2), 80, 160, 400, 640),
    "pvig_m": _pyramid((2, 2, 16, 2), 96, 192, 384, 768), "pvig_b": _pyramid((2, 2, 18, 2), 128, 256, 512, 1024),
}  # fmt: skip
