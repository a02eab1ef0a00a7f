"""The network up to one of its blocks, its tensors named as in the authors' files."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchcore_fast.features.graph import max_relative, nearest_nodes
from patchcore_fast.features.vig.positions import columns
from patchcore_fast.features.vig.shapes import Shape


class Network(nn.Module):
    """Maps after the blocks `taken`, of normalised images [B, 3, side, side].

    Parameters
    ----------
    shape : of the whole.  taken : positions in `backbone`, ascending; what is behind the last one is not there.
    """

    def __init__(self, shape: Shape, taken: tuple[int, ...]) -> None:
        """With torch's first numbers, but convolutions as the authors draw them: normal, by their inputs."""
        super().__init__()
        self.taken, first, side = taken, shape.channels[0], shape.side // shape.stride
        wide = (first // 2, first) if shape.pyramid else (first // 8, first // 4, first // 2, first)
        self.stem = nn.ModuleDict({"convs": _stem(wide)})
        self.pos_embed = nn.Parameter(torch.zeros(1, first, side, side))
        total = sum(shape.blocks)
        neighbours = [int(k) for k in torch.linspace(*shape.neighbours, total, device="cpu").tolist()]
        parts: list[nn.Module] = []
        number = 0
        for stage, (blocks, channels) in enumerate(zip(shape.blocks, shape.channels, strict=True)):
            if stage:
                parts.append(_Halved(nn.Sequential(*_convolution(shape.channels[stage - 1], channels, 2))))
                side //= 2
            for _ in range(blocks):
                dilation = min(number // 4 + 1, shape.farthest)
                grid = side if shape.positions else None
                graph = Grapher(channels, neighbours[number], dilation, shape.reductions[stage], grid)
                parts.append(nn.Sequential(graph, FeedForward(channels)))
                number += 1
        self.backbone = nn.Sequential(*parts[: taken[-1] + 1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all of them have one

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, h, w] of each of `taken`."""
        x, maps = self.stem["convs"](x) + self.pos_embed, []
        for i, part in enumerate(self.backbone):
            x = part(x)
            if i in self.taken:
                maps.append(x)
        return maps


class Grapher(nn.Module):
    """A linear map, the max-relative graph convolution, a linear map, and what came in.

    Neighbours are those of the nodes' directions: distances are taken after each is divided by its length, differences
    before. The authors make the N x M distances of an image; here a search finds K of each node (`kernels.knn`).

    side : of the grid, where relative positions count.
    """

    def __init__(self, channels: int, neighbours: int, dilation: int, reduction: int, side: int | None) -> None:
        super().__init__()
        self.channels, self.neighbours, self.dilation = channels, neighbours, dilation
        self.reduction, self.side = reduction, side
        self.fc1 = _linear(channels, channels)
        convolution = nn.Conv2d(2 * channels, 2 * channels, 1, groups=4)
        layers = nn.Sequential(convolution, nn.BatchNorm2d(2 * channels), nn.GELU())
        self.graph_conv = nn.ModuleDict({"gconv": nn.ModuleDict({"nn": layers})})
        self.fc2 = _linear(2 * channels, channels)
        self.centre_columns: Tensor | None
        self.other_columns: Tensor | None
        found = (None, None) if side is None else columns(channels, side, reduction)
        for name, value in zip(("centre_columns", "other_columns"), found, strict=True):
            self.register_buffer(name, None if value is None else value.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        inside = self.fc1(x)
        coarse = F.avg_pool2d(inside, self.reduction) if self.reduction > 1 else inside
        relative = [self._relative(one, other) for one, other in zip(inside, coarse, strict=True)]
        pairs = torch.stack([inside, torch.stack(relative)], dim=2).flatten(1, 2)  # x_0, its difference, x_1, ...
        return self.fc2(self.graph_conv["gconv"]["nn"](pairs)) + x  # type: ignore[index]

    def _relative(self, inside: Tensor, coarse: Tensor) -> Tensor:
        """max_j (y_j - x_i), [C, h, w], of the nodes of one image [C, h, w] and the coarser ones."""
        centres, others = (m.flatten(1).T.contiguous() for m in (inside, coarse))
        x, y = F.normalize(centres, dim=1), F.normalize(others, dim=1)
        if self.centre_columns is not None and self.other_columns is not None:
            x, y = torch.cat([x, self.centre_columns], dim=1), torch.cat([y, self.other_columns], dim=1)
        edges = nearest_nodes(x, y, self.neighbours, self.dilation)
        return max_relative(centres, others, edges).T.reshape(inside.shape)


class FeedForward(nn.Module):
    """Two linear maps with four times the channels between them, and what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = _linear(channels, 4 * channels), _linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same."""
        return self.fc2(F.gelu(self.fc1(x))) + x


class _Halved(nn.Module):
    def __init__(self, conv: nn.Sequential) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _linear(source: int, target: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(source, target, 1), nn.BatchNorm2d(target))


def _convolution(source: int, target: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(source, target, 3, stride, padding=1), nn.BatchNorm2d(target)]


def _stem(wide: tuple[int, ...]) -> nn.Sequential:
    """A convolution of stride 2 to each of these channels and one of stride 1, GELU between them."""
    parts: list[nn.Module] = []
    for source, target in zip((3, *wide), wide, strict=False):
        parts += [*_convolution(source, target, 2), nn.GELU()]
    return nn.Sequential(*parts, *_convolution(wide[-1], wide[-1], 1))
