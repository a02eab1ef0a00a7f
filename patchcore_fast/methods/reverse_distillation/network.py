"""Bottleneck and decoder as one network, made for a teacher and by a seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from patchcore_fast.features.networks import own_random_state
from patchcore_fast.features.source import FeatureSource
from patchcore_fast.methods.reverse_distillation.blocks import Layout, initialise, layout_of
from patchcore_fast.methods.reverse_distillation.bottleneck import Bottleneck
from patchcore_fast.methods.reverse_distillation.decoder import Decoder


class Student(nn.Module):
    """The teacher's maps through the code and back: what it returns has the shapes of what it is given."""

    def __init__(self, layout: Layout, seed: int = 0) -> None:
        """Weights by the seed; torch's global generator stays as it is."""
        super().__init__()
        with own_random_state(seed):
            self.bottleneck, self.decoder = Bottleneck(layout), Decoder(layout)
            initialise(self)
        self.strides = layout.strides

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[B, C_l, h_l, w_l] each -> the same. ValueError: grids that do not halve from layer to layer."""
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        self._check(sizes)
        return self.decoder(self.bottleneck(maps), sizes)

    def _check(self, sizes: Sequence[tuple[int, int]]) -> None:
        deepest = self.strides[-1]
        for (height, width), stride in zip(sizes, self.strides, strict=True):
            ratio = deepest // stride
            if (-(-height // ratio), -(-width // ratio)) != sizes[-1]:
                raise ValueError(
                    f"reverse distillation: layers of strides {self.strides} have grids {sizes}, which do not become "
                    f"the last one by halving, rounded up; take image sides that are multiples of {deepest}"
                )


def student_of(teacher: FeatureSource, size: tuple[int, int], seed: int = 0) -> Student:
    """The student of a teacher for images of (height, width) pixels; errors as of `Student` and `layout_of`."""
    return Student(layout_of(teacher.channels, teacher.reductions, signed=_signed(teacher, size)), seed)


def _signed(teacher: FeatureSource, size: tuple[int, int]) -> bool:
    """Whether its maps have negative values: of a random image, for one that ends in a ReLU has none for any."""
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(teacher.mean.device)
    return any(bool((m < 0).any()) for m in teacher(image))
