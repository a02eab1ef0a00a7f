"""The canonical float64 distance: every decision of every backend is settled by this arithmetic and no other.

d^2(x, y) = sum_i (x_i - y_i)^2, in difference form, each operation rounded once to float64, the sum taken by repeated
halving: v[:h] + v[h:], h = ceil(len / 2), until one term is left. A fixed order makes the value, and so every pick and
every neighbour, the same on every device; halving is also what vector units do well. Comparisons are of squares:
torch's float64 square root on the CPU comes from a vector library that may be one unit off, so `root` is used where
a distance leaves the engine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_PAIR_BYTES = 8 << 20  # working set of one chunk of pairs


def halving_sum(values: Tensor) -> Tensor:  # [..., D] float64 -> [...]
    """Sum over the last dimension in the canonical order. Overwrites `values`."""
    width = values.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        values[..., : width - half] += values[..., half:width]
        width = half
    return values[..., 0]


def root(squared: Tensor) -> Tensor:  # float64 -> float64
    """Correctly rounded square roots."""
    if squared.device.type == "cpu":
        return torch.from_numpy(np.sqrt(squared.numpy()))
    return squared.sqrt()


def squared_weights(weights: Tensor, largest: Tensor | None = None) -> Tensor:  # [N] -> [N] float64
    """Weights for squared distances, scaled by a power of two (the order does not change) so as not to overflow.

    `largest` [] : of all weights, where these are not all.
    """
    weights = weights.double()
    exponent = weight_exponent(weights.max() if largest is None else largest)
    half = exponent // 2  # in two steps: 2^-1024 is not normal
    return (weights * power_of_two(half) * power_of_two(exponent - half)).square()


def weight_exponent(largest: Tensor) -> Tensor:  # [] float64 -> [] int
    """The power of two that weights are scaled by, from the largest of them."""
    return -largest.double().frexp().exponent.clamp(min=-1000)


def power_of_two(exponent: Tensor) -> Tensor:  # [...] int -> [...] float64
    """2^n for -1022 <= n <= 1023, from its bits: on a device torch.ldexp takes a pow that may be a unit off."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def squared_distance(x: Tensor, y: Tensor) -> Tensor:  # [..., D], [..., D] (broadcast) -> [...] float64
    """Canonical squared distances of paired rows."""
    difference = x.double() - y.double()
    return halving_sum(difference.mul_(difference))


def paired_squared(
    x: Tensor,  # [N, D] any float dtype
    i: Tensor,  # [P] int64 rows of x
    y: Tensor,  # [M, D]
    j: Tensor,  # [P] int64 rows of y
) -> Tensor:  # [P] float64
    """Canonical squared distances of the pairs (x[i], y[j]), in chunks of bounded memory."""
    out = torch.empty(i.shape[0], dtype=torch.float64, device=x.device)
    step = max(1, _PAIR_BYTES // (32 * max(1, x.shape[1])))
    for lo in range(0, i.shape[0], step):
        part = slice(lo, lo + step)
        out[part] = squared_distance(x.index_select(0, i[part]), y.index_select(0, j[part]))
    return out
