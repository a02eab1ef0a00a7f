"""Where the fast arithmetic happens, decided on the device: nothing here waits for the host but the check of values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import LARGEST, raise_unusable
from ...exact import power_of_two
from ...rounding import SAFE_EXPONENT, sample_rows
from ...together import Together
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
    arithmetic: Arithmetic  # what the bound is of
    # What the host knows where it has waited for it anyway; else the careful answer.
    exact: bool = False  # fast distances are the true ones
    unchanged: bool = False  # no centre, no scale

    @property
    def squared_scale(self) -> Tensor:
        """[] float64: fast squared distances are this many times the true ones."""
        return (self.params[0] * self.params[4]).square()


@dataclass(frozen=True)
class Rows:
    """What a frame must hold besides the rows that it is made for: picks come from all ranks of a group."""

    largest: float = 0.0  # |x|
    broken: float = 0.0  # 1 if a value is no integer


def look_at_all(name: str, features: Tensor, look: Look, together: Together) -> Rows:
    """What the rows of all ranks are like; features [N, D] are this one's, N may be 0.

    Raises
    ------
    ValueError : a value here is not finite or too large.  RankError : one of another rank is.
    """

    def here() -> tuple[float, float]:
        bits = torch.zeros(2, dtype=torch.int64, device=features.device)
        broken = bits[1:].view(torch.int32)[:1]
        if features.shape[0]:
            look(features, bits[:1], broken)
        largest = float(bits[:1].view(torch.float64)[0])
        if not largest <= LARGEST:
            raise_unusable(name, "features", features)
        return largest, float(broken[0])

    largest, broken = together.agree(here)
    return Rows(together.most(largest), together.most(broken))


def decide_frame(
    name: str,
    arithmetic: Arithmetic,
    checked: bool,
    look: Look,
    halves: bool = False,
    others: Rows | None = None,
    **matrices: Tensor,
) -> DeviceFrame:
    """A common frame for all matrices, as rounding.choose_frame, without a word to the host unless `checked`.

    The difference form is not centred where float32 holds the rows as they are: subtracting would round them.

    Parameters
    ----------
    name : public function, for the error message.
    checked : refuse rows that are not finite; the one wait for the device. What is decided then is decided by the host.
    look : how the backend reads a matrix.
    halves : take "half" instead where the host finds that no centre and no scale are needed (precision.halves).
    others : rows of other ranks that these will be compared with; only with `checked`.
    matrices : [N, D] each, by the name that the message should use. The first places the centre.

    Raises
    ------
    ValueError : `checked`, and a value is not finite or too large.
    """
    x = next(iter(matrices.values()))
    device, dim, count = x.device, x.shape[1], len(matrices)
    bits = torch.zeros(count + 1, dtype=torch.int64, device=device)
    broken = bits[count:].view(torch.int32)[:1]
    for i, matrix in enumerate(matrices.values()):
        look(matrix, bits[i : i + 1], broken)
    facts = [bits[:count].view(torch.float64), broken.double()]
    rounded = not arithmetic.difference or any(matrix.dtype == torch.float64 for matrix in matrices.values())
    centre = None
    if rounded or (halves and checked):
        sample = sample_rows(x).double()
        centre = sample.median(0).values.float()
        facts += [torch.linalg.vector_norm(y, dim=1).median().view(1) for y in (sample - centre, sample)]
    told = torch.cat(facts)
    if checked:
        told = told.cpu()
        for (what, matrix), size in zip(matrices.items(), told.tolist(), strict=False):
            if not size <= LARGEST:
                raise_unusable(name, what, matrix)
    if checked:
        numbers = told.tolist()
        if others is not None:
            numbers[0], numbers[count] = max(numbers[0], others.largest), max(numbers[count], others.broken)
        return _on_host(numbers, dim, arithmetic, rounded, halves, centre, device)
    return _on_device(told, dim, arithmetic, rounded, centre)


def _integers(arithmetic: Arithmetic) -> float:
    """Up to which size the arithmetic holds integers."""
    return _EXACT_BF16 if arithmetic.mode == "bf16" else math.inf


def _on_host(
    told: list[float],
    dim: int,
    arithmetic: Arithmetic,
    rounded: bool,
    halves: bool,
    centre: Tensor | None,
    device: torch.device,
) -> DeviceFrame:
    """From the sizes of the matrices, whether one holds other numbers than integers, and two norms for the centre."""
    spread, size = told[-2:] if centre is not None else (0.0, 0.0)
    sizes = told[:-3] if centre is not None else told[:-1]
    most, broken = max(sizes), told[len(sizes)]
    integral = broken == 0 and 4 * dim * most * most <= _EXACT_INTEGERS and most <= _integers(arithmetic)
    plain = 2.0**-SAFE_EXPONENT <= most <= 2.0**SAFE_EXPONENT
    exponent = 0 if plain or most == 0 else min(40 - math.frexp(most)[1], 450)
    centred = plain and not integral and 4 * spread < size
    if halves and exponent == 0 and not centred:
        arithmetic = Arithmetic("half")
    centred = centred and rounded
    bound = arithmetic.bound(dim, SAFE_EXPONENT if plain else 41, rounded)
    parts = (0.0, 0.0, 0.0) if integral else (bound.relative, bound.norm, bound.absolute)
    if centre is None or not centred:
        centre = torch.zeros(dim, dtype=torch.float32, device=device)
    low, high = math.ldexp(1.0, exponent // 2), math.ldexp(1.0, exponent - exponent // 2)
    params = torch.tensor([low, *parts, high], dtype=torch.float64, device=device)
    return DeviceFrame(centre, params, arithmetic, exact=parts[0] == 0, unchanged=exponent == 0 and not centred)


def _on_device(told: Tensor, dim: int, arithmetic: Arithmetic, rounded: bool, centre: Tensor | None) -> DeviceFrame:
    """The same, but for halves, without a word to the host: what a CUDA graph can hold."""
    count = told.shape[0] - (1 if centre is None else 3)
    most = told[:count].max()
    integral = (told[count] == 0) & (4 * dim * most.square() <= _EXACT_INTEGERS) & (most <= _integers(arithmetic))
    plain = (most >= 2.0**-SAFE_EXPONENT) & (most <= 2.0**SAFE_EXPONENT)
    exponent = torch.clamp(40 - torch.frexp(most).exponent, max=450)
    exponent = torch.where(plain | (most == 0), 0, exponent)
    bounds = (arithmetic.bound(dim, size, rounded) for size in (SAFE_EXPONENT, 41))  # usual sizes; others
    inside, outside = ([torch.full_like(most, part) for part in (b.relative, b.norm, b.absolute)] for b in bounds)
    parts = [torch.where(integral, 0.0, torch.where(plain, a, b)) for a, b in zip(inside, outside, strict=True)]
    if centre is None:
        centre = torch.zeros(dim, dtype=torch.float32, device=told.device)
    else:
        centre = torch.where(plain & ~integral & (4 * told[count + 1] < told[count + 2]), centre, 0.0)
    low, high = power_of_two(exponent // 2), power_of_two(exponent - exponent // 2)
    return DeviceFrame(centre, torch.stack([low, *parts, high]), arithmetic)
