"""The bottleneck: the teacher's layers fused on the deepest grid (MFF), then embedded in a smaller code (OCE)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from patchcore_fast.methods.reverse_distillation.blocks import HALVED, Layout, convolution, stage


class Bottleneck(nn.Module):
    """Maps of all layers -> the code, with twice the channels of the deepest layer on half its grid.

    A layer goes down to the deepest grid by 3x3 convolutions of stride 2, each with batch norm and ReLU and with the
    channels of the next layer. Grids are halved rounding up, so sides may be odd.
    """

    def __init__(self, layout: Layout) -> None:
        """Untrained, drawn from torch's global generator."""
        super().__init__()
        deepest = layout.channels[-1]
        self.down = nn.ModuleList(_down(layout, i) for i in range(len(layout.channels)))
        taken = deepest * len(layout.channels)
        self.embed = stage(layout, taken, 2 * deepest, layout.bottleneck, HALVED)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[B, C_l, h_l, w_l] each -> [B, 2 C, h, w]."""
        return self.embed(torch.cat([down(m) for down, m in zip(self.down, maps, strict=True)], dim=1))


def _down(layout: Layout, layer: int) -> nn.Sequential:
    """From one layer to the deepest: channels change with the layers on the way, whatever their strides."""
    parts: list[nn.Module] = []
    for (taken, given), ratio in zip(pairwise(layout.channels[layer:]), layout.ratios[layer:], strict=True):
        times = ratio.bit_length() - 1
        for i in range(times):
            parts += [convolution(given if i else taken, given, 3, HALVED), nn.BatchNorm2d(given), nn.ReLU()]
        if not times and taken != given:  # the same grid: nothing to halve, but channels must agree
            parts += [convolution(taken, given, 1), nn.BatchNorm2d(given), nn.ReLU()]
    return nn.Sequential(*parts)
