"""Bottleneck and decoder of reverse distillation in plain operations, from the paper's description and docs/methods.md.

Names of weights are those of `Student`. Batch norm takes the statistics of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def student(w: Weights, maps: Sequence[Tensor], narrow: bool, blocks: Sequence[int], signed: bool = False):
    """Maps of three layers, each half the grid of the one before, through the code of half the last grid and back.

    blocks : of the bottleneck, then of the decoder's stages.
    """
    fused = torch.cat([down(w, f"bottleneck.down.{i}.", m, 2 - i) for i, m in enumerate(maps)], 1)
    x = stage(w, "bottleneck.embed.", fused, narrow, blocks[0], "halved", False)
    found = []
    for i, count in enumerate(blocks[1:]):
        x = stage(w, f"decoder.stages.{i}.0.", x, narrow, count, "doubled", signed)
        x = x[:, :, : maps[2 - i].shape[2], : maps[2 - i].shape[3]]
        found.append(x)
    return found[::-1]


def down(w: Weights, at: str, x: Tensor, times: int) -> Tensor:
    for i in range(times):
        x = norm(w, f"{at}{3 * i + 1}.", halved(x, w[f"{at}{3 * i}.weight"])).clamp(min=0)
    return x


def stage(w: Weights, at: str, x: Tensor, narrow: bool, count: int, change: str, signed: bool) -> Tensor:
    for i in range(count):
        x = block(w, f"{at}{i}.", x, narrow, "same" if i else change)
        if not (signed and i == count - 1):
            x = x.clamp(min=0)
    return x


def block(w: Weights, at: str, x: Tensor, narrow: bool, change: str) -> Tensor:
    change_at = {"halved": halved, "doubled": doubled, "same": full}[change]
    if change == "same":
        beside = x
    else:
        point = (lambda v, k: full(v, k)[:, :, ::2, ::2]) if change == "halved" else doubled
        beside = norm(w, f"{at}shortcut.1.", point(x, w[f"{at}shortcut.0.weight"]))
    if narrow:
        y = norm(w, f"{at}bn1.", full(x, w[f"{at}conv1.weight"])).clamp(min=0)
        y = norm(w, f"{at}bn2.", change_at(y, w[f"{at}conv2.weight"])).clamp(min=0)
        return norm(w, f"{at}bn3.", full(y, w[f"{at}conv3.weight"])) + beside
    y = norm(w, f"{at}bn1.", change_at(x, w[f"{at}conv1.weight"])).clamp(min=0)
    return norm(w, f"{at}bn2.", full(y, w[f"{at}conv2.weight"])) + beside


def full(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)


def halved(x: Tensor, kernel: Tensor) -> Tensor:
    """Every second place of the whole convolution."""
    return full(x, kernel)[:, :, ::2, ::2]


def doubled(x: Tensor, kernel: Tensor) -> Tensor:
    """Each place becomes 2 x 2, by a matrix for each of the four."""
    b, _, h, v = x.shape
    return torch.einsum("bchv,coij->bohivj", x, kernel).reshape(b, -1, 2 * h, 2 * v)


def norm(w: Weights, at: str, x: Tensor) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    var = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * w[f"{at}weight"][:, None, None] + w[f"{at}bias"][:, None, None]


def loss(teacher: Sequence[Tensor], student: Sequence[Tensor], kind: str) -> Tensor:
    """Over a whole map, or at each place; cosines from norms and products."""
    dims = (1, 2, 3) if kind == "map" else (1,)
    total = torch.zeros((), dtype=teacher[0].dtype)
    for t, s in zip(teacher, student, strict=True):
        cos = (t * s).sum(dims) / (t.square().sum(dims).sqrt() * s.square().sum(dims).sqrt())
        total = total + (1 - cos).mean()
    return total
