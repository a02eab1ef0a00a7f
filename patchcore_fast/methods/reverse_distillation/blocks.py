"""Residual blocks that keep, halve or double a grid, and how they are put together for a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

# Of a grid: kept, halved (rounded up) by a stride of 2, doubled by a transposed convolution.
SAME, HALVED, DOUBLED = "same", "halved", "doubled"
_WIDE = 512  # channels of the deepest layer from which on blocks are bottlenecks, as in the published networks


@dataclass(frozen=True)
class Layout:
    """What the student of a teacher looks like.

    Attributes
    ----------
    channels : of the teacher's layers, the finest grid first.
    ratios : how many times as fine each grid is as the next one: 1, 2, 4, ...
    narrow : blocks are bottlenecks (1x1, 3x3, 1x1) and half as wide inside, as WideResNet-50's; else two 3x3
        convolutions, as ResNet-18's.
    bottleneck : blocks of the stage that makes the code.
    decoder : blocks of each stage of the decoder, the deepest first.
    signed : the teacher's maps have negative values, so that the decoder's must not end in a ReLU.
    """

    channels: tuple[int, ...]
    ratios: tuple[int, ...]
    narrow: bool
    bottleneck: int
    decoder: tuple[int, ...]
    signed: bool


def layout_of(shapes: Sequence[tuple[int, int, int]], *, signed: bool = False) -> Layout:
    """The layout for a teacher's maps (C, h, w): that of the public code for WideResNet-50 where the deepest layer has
    at least 512 channels, else that for ResNet-18.

    Raises
    ------
    ValueError : grids that do not become each other by halving, rounded up; one that is too small.
    """
    channels, grids = tuple(c for c, _, _ in shapes), [shape[1:] for shape in shapes]
    ratios = tuple(_ratio(fine, coarse, grids) for fine, coarse in pairwise(grids))
    if max(grids[-1]) <= 2:  # batch norm of a last batch of one image needs two places
        raise ValueError(
            f"reverse distillation: the deepest layer has a grid of {grids[-1][0]} x {grids[-1][1]}, which leaves one "
            "place of code; take larger images"
        )
    narrow, stages = channels[-1] >= _WIDE, len(channels)
    blocks = (3, 4, *(6,) * stages)[:stages] if narrow else (2,) * stages
    return Layout(channels, ratios, narrow, blocks[0], blocks, signed)


def _ratio(fine: tuple[int, int], coarse: tuple[int, int], grids: Sequence[tuple[int, int]]) -> int:
    for ratio in (1 << i for i in range(max(fine).bit_length() + 1)):
        if (-(-fine[0] // ratio), -(-fine[1] // ratio)) == coarse:
            return ratio
    said = ", ".join(f"{height} x {width}" for height, width in grids)
    raise ValueError(
        f"reverse distillation: the backbone's layers have grids of {said}, and each must be the one before halved "
        "(rounded up) some times; take sides of images that are multiples of the backbone's stride, or other layers"
    )


def convolution(taken: int, given: int, kernel: int, change: str = SAME) -> nn.Module:
    """A convolution without bias, or the transposed one of 2x2 that doubles a grid."""
    if change == DOUBLED:
        return nn.ConvTranspose2d(taken, given, 2, stride=2, bias=False)
    return nn.Conv2d(taken, given, kernel, stride=2 if change == HALVED else 1, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + two 3x3 convolutions); the first one changes the grid."""

    def __init__(self, taken: int, given: int, change: str = SAME, *, signed: bool = False) -> None:
        """Channels taken and given; `signed` leaves the last ReLU out."""
        super().__init__()
        self.conv1, self.bn1 = convolution(taken, given, 3, change), nn.BatchNorm2d(given)
        self.conv2, self.bn2 = convolution(given, given, 3), nn.BatchNorm2d(given)
        self.shortcut, self.signed = _shortcut(taken, given, change), signed

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.shortcut(x)
        return y if self.signed else F.relu(y)


class NarrowBlock(nn.Module):
    """relu(shortcut(x) + 1x1, 3x3 and 1x1 convolutions), half as wide inside; the middle one changes the grid."""

    def __init__(self, taken: int, given: int, change: str = SAME, *, signed: bool = False) -> None:
        """Channels taken and given; `signed` leaves the last ReLU out."""
        super().__init__()
        inside = given // 2
        self.conv1, self.bn1 = convolution(taken, inside, 1), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = convolution(inside, inside, 3, change), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = convolution(inside, given, 1), nn.BatchNorm2d(given)
        self.shortcut, self.signed = _shortcut(taken, given, change), signed

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y)) + self.shortcut(x)
        return y if self.signed else F.relu(y)


def stage(layout: Layout, taken: int, given: int, blocks: int, change: str, *, signed: bool = False) -> nn.Sequential:
    """Blocks one after another; the first changes grid and channels, the last may be `signed`."""
    kind = NarrowBlock if layout.narrow else BasicBlock
    return nn.Sequential(*(
        kind(given if i else taken, given, SAME if i else change, signed=signed and i == blocks - 1)
        for i in range(blocks)
    ))  # fmt: skip


def initialise(module: nn.Module) -> None:
    """Draw the weights as the public code: normal, of variance 2 / fan-out; transposed convolutions as torch does."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.ConvTranspose2d | nn.BatchNorm2d):
            part.reset_parameters()


def _shortcut(taken: int, given: int, change: str) -> nn.Module:
    if change == SAME and taken == given:
        return nn.Identity()
    return nn.Sequential(convolution(taken, given, 1, change), nn.BatchNorm2d(given))
