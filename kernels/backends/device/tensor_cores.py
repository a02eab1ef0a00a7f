"""What the bounds of tf32x3 and half assume of tensor cores (precision.py), put to a device before it is trusted.

NVIDIA does not specify how they round. So each backend has its own instructions multiply made-up tiles, of which every
bit that is lost shows: products of numbers as wide as the type has them must be exact, sums be held in float32, addends
be cut no shorter than 24 bits of the largest, and random sums stay within the bound. A device that fails takes other
arithmetic. TF32, float16 and bfloat16 are asked each by itself, and refused each by itself.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...rounding import UNIT
from .launch import captured

_LAST = 2.0**-23  # the last bit of a float32 in [1, 2)
_log = logging.getLogger("patchcore_fast.kernels")


class Numbers(NamedTuple):
    """What tensor cores multiply, and which arithmetic rests on it."""

    name: str
    dtype: torch.dtype  # in which the numbers are handed over
    bits: int  # of a number, the first one among them
    taken: str  # the arithmetic, for messages: "... is not taken"


TF32 = Numbers("TF32", torch.float32, 11, "tf32x3")
FLOAT16 = Numbers("float16", torch.float16, 11, "half for float16 rows")
BFLOAT16 = Numbers("bfloat16", torch.bfloat16, 8, "half for bfloat16 rows")
# What went wrong, in words; in this order, as the first may cause the others.
_WRONG = {
    "products": "products of {0.bits}-bit numbers are not exact",
    "subnormal": "products of subnormal numbers are not exact",
    "sums": "sums, or addends beside the largest, keep fewer than 24 bits",
    "bound": "sums are farther off than the bound of {0.taken} allows",
}


@dataclass(frozen=True)
class Questions:
    """T tiles of start + x y^T."""

    numbers: Numbers
    x: Tensor  # [T, M, K] of the numbers' type
    y: Tensor  # [T, N, K]
    start: Tensor  # [T, M, N] float32
    right: Tensor  # [T, M, N] float64
    allowed: Tensor  # [T, M, N] float64: how far off an answer may be
    kinds: tuple[str, ...]  # [T] what each asks: keys of _WRONG


@functools.cache
def questions(rows: int, others: int, depth: int, numbers: Numbers = TF32) -> Questions:
    """The tiles, of M = rows, N = others and K = depth; on the CPU, the same each time."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(rows)
    one = torch.zeros(rows, depth)
    one[index, index % depth] = 1.0

    def wide(size: int, spread: int = 0) -> Tensor:  # numbers whose last and first bit are set
        low = torch.randint(0, 1 << (numbers.bits - 2), (size, depth), generator=generator)
        sign = 1 - 2 * torch.randint(0, 2, (size, depth), generator=generator)
        power = 2.0 ** torch.randint(-spread, spread + 1, (size, depth), generator=generator)
        half = 1 << (numbers.bits - 1)
        return sign * power * (half + 2 * low + 1) / half

    def subnormal(size: int) -> Tensor:  # odd multiples of the smallest number
        return 2.0**-24 * (2 * torch.randint(0, 1 << 9, (size, depth), generator=generator) + 1)

    x, y = wide(rows), wide(others)
    # Products of a row: 1 at one place, and the last bit at the others. Every type has these numbers, as normal ones.
    flat, small = torch.ones(others, depth), torch.full((others, depth), 2.0**-11)
    least = torch.full((rows, depth), 2.0**-12)
    large = torch.where(one > 0, 2.0**11, least)
    odd = 1 + _LAST * (2 * torch.randint(0, 1 << 22, (rows, others), generator=generator) + 1).float()
    none, unit = torch.zeros(rows, others), torch.ones(rows, others)
    tiles = [
        ("products", one * x, y, none),
        ("sums", torch.zeros(rows, depth), flat, odd),
        ("sums", large, small, none),
        ("sums", large, small, -unit),
        ("sums", (1 - one) * least, small, unit),
        ("bound", x.abs(), y.abs(), odd),
        ("bound", wide(rows, 6), wide(others, 6), -odd),
    ]
    if numbers.dtype == torch.float16:  # those of the others are so small that the bound's absolute part has room
        tiles += [
            ("subnormal", one * subnormal(rows), y, none),
            ("subnormal", one * x, subnormal(others), none),
        ]
    kinds = tuple(kind for kind, *_ in tiles)
    left, other, start = (torch.stack(list(parts)).contiguous() for parts in list(zip(*tiles, strict=True))[1:])
    right = start.double() + left.double() @ other.double().mT
    size = start.double().abs() + left.double().abs() @ other.double().abs().mT
    bound = torch.tensor([kind == "bound" for kind in kinds]).view(-1, 1, 1)
    # Six cuts of 2 u for every four columns.
    allowed = torch.where(bound, 3 * depth * UNIT * size, 0.0)
    return Questions(numbers, left.to(numbers.dtype), other.to(numbers.dtype), start, right, allowed, kinds)


def judge(asked: Questions, answers: Tensor) -> str | None:
    """Why tensor cores that gave these answers [T, M, N] are not to be trusted, or None."""
    wrong = ~((answers.double() - asked.right).abs() <= asked.allowed)  # so that NaN is wrong
    for kind, words in _WRONG.items():
        of_kind = torch.tensor([k == kind for k in asked.kinds]).view(-1, 1, 1)
        places = (wrong & of_kind).nonzero()
        if len(places):
            place = tuple(places[0].tolist())
            said = words.format(asked.numbers)
            return f"{said}: {answers[place].item()!r} where {asked.right[place].item()!r} is right"
    return None


class Probe:
    """A backend's question to each device, asked once."""

    def __init__(
        self,
        backend: str,
        shape: tuple[int, int, int],
        ask: Callable[[Questions, torch.device], Tensor],
        numbers: Numbers = TF32,
    ):
        """`ask` gives the answers, [T, M, N] on the CPU; shape: M, N, K of a tile."""
        self.backend, self.numbers, self._shape, self._ask = backend, numbers, shape, ask
        self._known: dict[torch.device, str | None] = {}

    def refusal(self, device: torch.device) -> str | None:
        """Why the arithmetic is not taken on a device, or None. Not asked while a graph is captured: then it is not.

        What keeps a device from answering, such as a lack of memory, is a reason for now: it is asked again.
        """
        device = _numbered(device)
        if device in self._known:
            return self._known[device]
        if captured(device):
            return "the tensor cores have not been asked before a CUDA graph was captured"
        asked = questions(*self._shape, self.numbers)
        try:
            found = judge(asked, self._ask(asked, device))
        except RuntimeError as e:
            return f"the tensor cores could not be asked: {e}"
        if found is not None:
            found = f"the tensor cores do not add up as its bound needs: {found}"
            _log.warning("%s: %s is not taken on %s: %s", self.backend, self.numbers.taken, device, found)
        if device.type == "cuda":  # the emulator's change
            self._known[device] = found
        return found

    def known(self, device: torch.device) -> tuple[bool, str | None]:
        """Whether a device has been asked, and what `refusal` then says. Nothing is launched."""
        device = _numbered(device)
        return device in self._known, self._known.get(device)


def _numbered(device: torch.device) -> torch.device:
    """The device that is meant: "cuda" is the current one."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
