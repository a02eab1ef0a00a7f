"""Bottleneck and decoder as one network: what is trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from patchcore_fast.methods.reverse_distillation.blocks import Layout, initialise
from patchcore_fast.methods.reverse_distillation.bottleneck import Bottleneck
from patchcore_fast.methods.reverse_distillation.decoder import Decoder


class Student(nn.Module):
    """The teacher's maps through the code and back: what it returns has the shapes of what it is given."""

    def __init__(self, layout: Layout) -> None:
        """Weights are drawn from torch's global generator (`features.networks.own_random_state`)."""
        super().__init__()
        self.bottleneck, self.decoder = Bottleneck(layout), Decoder(layout)
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[B, C_l, h_l, w_l] each -> the same."""
        return self.decoder(self.bottleneck(maps), [(m.shape[2], m.shape[3]) for m in maps])
