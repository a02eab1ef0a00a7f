"""Random projection of wide features, chunk by chunk, so that only N x d lives on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.exact import halving_sum
from ..kernels.surroundings import undisturbed
from ..scratch import room_for

_CHUNK_BYTES = 64 << 20
_UNIT = 2.0**-53


@undisturbed
def random_projection(dim: int, target: int, seed: int) -> Tensor:
    """A [dim, target] float32 matrix of independent uniform entries in +-1/sqrt(dim).

    Distances survive such a projection up to a common factor (Johnson and Lindenstrauss 1984; Achlioptas 2003). The
    draw is that of torch.nn.Linear(dim, target, bias=False) after torch.manual_seed(seed), which is what
    patchcore-inspection uses, but from a generator of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = dim**-0.5
    return torch.empty(target, dim, dtype=torch.float32).uniform_(-bound, bound, generator=generator).t()


@undisturbed
def project(
    features: Tensor,  # [N, D] anywhere
    matrix: Tensor,  # [D, d]
    device: torch.device,
) -> Tensor:  # [N, d] float32 on `device`
    """features @ matrix, rounded once from float64.

    Float32 sums would depend on the chunk, the thread count and the device, and the picks with them. Float64 sums
    hardly do: where the rounding to float32 hangs on their last digits, the value is computed again in a fixed order.
    """
    matrix = matrix.to(device=device, dtype=torch.float64)
    column = matrix.square().sum(0).sqrt()
    # A float64 product of D terms is off by at most (D + 1) 2^-53 |x||w| (Higham 2002, section 3.1).
    unit = (features.shape[1] + 2) * _UNIT
    shape = (features.shape[0], matrix.shape[1])
    if device.type == "cpu":
        out = room_for(shape, torch.float32)
    else:
        out = torch.empty(shape, dtype=torch.float32, device=device)
    step = max(1, _CHUNK_BYTES // (8 * features.shape[1]))
    for lo in range(0, features.shape[0], step):
        part = features[lo : lo + step].to(device).double()
        value = part @ matrix
        error = part.square().sum(1).sqrt_()[:, None] * (unit * column)
        i, j = ((value - error).float() != (value + error).float()).nonzero(as_tuple=True)
        if i.shape[0]:
            value[i, j] = halving_sum(part[i] * matrix.t()[j])
        out[lo : lo + step] = value.float()
    return out
