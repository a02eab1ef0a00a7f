"""The decoder: from the code back to the teacher's maps, the deepest first."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from patchcore_fast.methods.reverse_distillation.blocks import DOUBLED, SAME, Layout, stage


class Decoder(nn.Module):
    """The code -> maps with the teacher's channels on the teacher's grids, a stage of blocks for each layer.

    A stage doubles the grid as often as it is halved on the way down; the first one goes from the code to the deepest
    layer. Where the teacher's grid is odd, the last row or column of the doubled one is cut off.
    """

    def __init__(self, layout: Layout) -> None:
        """Untrained, drawn from torch's global generator."""
        super().__init__()
        channels = [2 * layout.channels[-1], *layout.channels[::-1]]
        ratios = [2, *layout.ratios[::-1]]
        self.stages = nn.ModuleList()
        for i, blocks in enumerate(layout.decoder):
            taken, given, ratio = channels[i], channels[i + 1], ratios[i]
            doubled = [stage(layout, taken, taken, 1, DOUBLED) for _ in range(ratio.bit_length() - 2)]
            change = SAME if ratio == 1 else DOUBLED
            self.stages.append(
                nn.Sequential(*doubled, stage(layout, taken, given, blocks, change, signed=layout.signed))
            )

    def forward(self, code: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Maps [B, C_l, h_l, w_l] of grids `sizes`, in the order of the teacher's layers."""
        maps: list[Tensor] = []
        x = code
        for part, (height, width) in zip(self.stages, reversed(sizes), strict=True):
            x = part(x)[:, :, :height, :width]
            maps.append(x)
        return maps[::-1]
