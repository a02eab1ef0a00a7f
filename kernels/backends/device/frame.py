"""Where the fast arithmetic happens, decided on the device: nothing here waits for the host but the check of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import LARGEST, raise_unusable
from ...rounding import SAFE_EXPONENT, sample_rows
from .precision import Arithmetic

_EXACT_INTEGERS = 2.0**24  # in float32, and so in TF32: values are then below 2^11
_EXACT_BF16 = 2.0**8
# (x [N, D], largest [1] int64, broken [1] int32): take the largest |x| (bits of a float64, those of infinity for NaN)
# and whether some value is no integer into what is there.
Look = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class DeviceFrame:
    """Rows as (x - centre) * scale in float32, and what is then known of the error of a fast squared distance."""

    centre: Tensor  # [D] float32
    params: Tensor  # [5] float64: a power of two, the bound's relative, norm and absolute parts, a power of two

    @property
    def squared_scale(self) -> Tensor:
        """[] float64: fast squared distances are this many times the true ones."""
        return (self.params[0] * self.params[4]).square()


def decide_frame(name: str, arithmetic: Arithmetic, checked: bool, look: Look, **matrices: Tensor) -> DeviceFrame:
    """A common frame for all matrices, as rounding.choose_frame, without a word to the host unless `checked`.

    The difference form is not centred where float32 holds the rows as they are: subtracting would round them.

    Parameters
    ----------
    name : public function, for the error message.
    checked : refuse rows that are not finite; the one wait for the device.
    look : how the backend reads a matrix.
    matrices : [N, D] each, by the name that the message should use. The first places the centre.

    Raises
    ------
    ValueError : `checked`, and a value is not finite or too large.
    """
    x = next(iter(matrices.values()))
    device, dim = x.device, x.shape[1]
    sizes = torch.zeros(len(matrices), dtype=torch.int64, device=device)
    broken = torch.zeros(1, dtype=torch.int32, device=device)
    for i, matrix in enumerate(matrices.values()):
        look(matrix, sizes[i : i + 1], broken)
    largest = sizes.view(torch.float64)
    if checked:
        for (what, matrix), size in zip(matrices.items(), largest.tolist(), strict=True):
            if not size <= LARGEST:
                raise_unusable(name, what, matrix)
    most = largest.max()
    integral = (broken[0] == 0) & (4 * dim * most.square() <= _EXACT_INTEGERS)
    if arithmetic.mode == "bf16":
        integral &= most <= _EXACT_BF16
    plain = (most >= 2.0**-SAFE_EXPONENT) & (most <= 2.0**SAFE_EXPONENT)
    exponent = torch.clamp(40 - torch.frexp(most).exponent, max=450)
    one = torch.ones_like(most)
    exponent = torch.where(plain | (most == 0), 0, exponent)
    rounded = not arithmetic.difference or any(matrix.dtype == torch.float64 for matrix in matrices.values())
    if rounded:
        sample = sample_rows(x).double()
        centre = sample.median(0).values.float().double()
        spread = (sample - centre).square().sum(1).median()
        centred = plain & ~integral & (16 * spread < sample.square().sum(1).median())
        centre = torch.where(centred, centre, 0.0).float().contiguous()
    else:
        centre = torch.zeros(dim, dtype=torch.float32, device=device)
    inside, outside = (arithmetic.bound(dim, size, rounded) for size in (SAFE_EXPONENT, 41))
    zero = torch.zeros_like(most)
    bound = [
        torch.where(integral, zero, torch.where(plain, a, b))
        for a, b in (
            (torch.full_like(most, inside.relative), torch.full_like(most, outside.relative)),
            (torch.full_like(most, inside.norm), torch.full_like(most, outside.norm)),
            (torch.full_like(most, inside.absolute), torch.full_like(most, outside.absolute)),
        )
    ]
    params = [torch.ldexp(one, exponent // 2), *bound, torch.ldexp(one, exponent - exponent // 2)]
    return DeviceFrame(centre, torch.stack(params))
