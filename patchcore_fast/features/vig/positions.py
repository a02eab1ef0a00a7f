"""Relative positions of a grid as columns of its nodes, so that an exact k-NN search takes them into account."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sines(channels: int, side: int) -> Tensor:
    """[side^2, channels] float64: sines and cosines of the column and then of the row, as in the Transformer.

    Half of the channels are of each; of these the first half are sines, of frequencies 10,000^(-2 i / half).
    """
    rates = 10_000.0 ** -(torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, channels / 2]
    columns, rows = axis[None].expand(side, -1, -1), axis[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(side * side, -1)


def factors(channels: int, side: int, reduction: int) -> tuple[Tensor, Tensor]:
    """Q [N, channels] of the nodes and K [M, channels] of the coarser ones, float64, over the root of the channels.

    -2 Q K^T is what the network adds to squared distances. M = N / reduction^2: the numbers of nodes are interpolated
    bicubically, as the authors do with the matrix; its one factor is enough.
    """
    nodes = sines(channels, side) / channels**0.5
    if reduction == 1:
        return nodes, nodes
    size = (len(nodes) // reduction**2, channels)
    return nodes, F.interpolate(nodes[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]


def columns(channels: int, side: int, reduction: int) -> tuple[Tensor, Tensor]:
    """Columns for the nodes, [N, channels + 1], and for the coarser ones, [M, channels + 1], float64.

    Beside unit vectors x and y they make |x - y|^2 - 2 q k of the squared distance, up to a number of each node, which
    changes no order: |q - k|^2 has |k|^2 too much, and the last column makes it the same for all.
    """
    query, key = factors(channels, side, reduction)
    length = key.square().sum(dim=1, keepdim=True)
    last = (length.max() - length).sqrt()
    return torch.cat([query, torch.zeros_like(query[:, :1])], dim=1), torch.cat([key, last], dim=1)
