"""Which arithmetic the bulk of the work runs in, and how far its float32 distances can then be off.

Every mode computes F = |x|^2 + |y|^2 - 2 x.y of rows in the frame; rounding.py turns |F - d^2| <= c (|x| + |y|)^2 into
the bound that decisions rest on. With u = 2^-24 and D columns:

ieee     float32 multiply-adds in any order: c = (D + 32) u, see rounding.py.
tf32x3   x = x_hi + x_lo, x_hi rounded to TF32 (11 bits, |x - x_hi| <= 2^-11 |x|), x_lo cut to as many by the tensor
         core (off by 2^-21 |x| at most); x_hi y_hi + x_hi y_lo + x_lo y_hi leaves out at most 5 * 2^-22 |x||y|
         = 20 u |x||y|. Products of 11-bit numbers are exact. Tensor cores add 4 or 8 of them to the accumulator at
         once and cut every addend below the last of at least 24 bits of the largest (Fasi, Higham, Mikaitis and
         Pranesh, Numerical behavior of NVIDIA tensor cores, 2021): at most 6 addends of 2 u each for every 4 columns,
         3 D u |x||y| in all. The two small products add 2^-11 of that. Twice an inner product enters F, and
         2 |x||y| <= (|x| + |y|)^2 / 2, so c = (4 D + 64) u has more than twofold room.
tf32, bf16  one product of rounded rows: no useful certificate. They are given the bound of ieee, so that picks are
         what this arithmetic says: asked for by name only.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...rounding import UNIT, ErrorBound

_WIDEST_TF32X3 = 1 << 16  # columns up to which its bound stays small
# Data-centre cards, whose tensor cores take TF32 at eight times the rate of float32 or more. On GeForce-class cards
# TF32 runs at the rate of float32, or twice it: three products there gain nothing.
_TF32X3 = {(8, 0), (9, 0), (10, 0), (10, 3)}


@dataclass(frozen=True)
class Arithmetic:
    """How a dot product is taken. `mode`: ieee, tf32x3, tf32 or bf16."""

    mode: str

    @property
    def certified(self) -> bool:
        """Whether the bound below is a proven one."""
        return self.mode in ("ieee", "tf32x3")

    def bound(self, dim: int, exponent: int) -> ErrorBound:
        """Of rows of `dim` features of size up to 2^exponent."""
        c = ((4 * dim + 64) if self.mode == "tf32x3" else (dim + 32)) * UNIT
        c /= 1 - c
        return ErrorBound(relative=3 * c, norm=8 * c * (1 + 4 * c), absolute=dim * 2.0 ** (exponent - 120))


def choose_arithmetic(precision: str, capability: tuple[int, int], dim: int) -> Arithmetic:
    """What `precision` means on a card of this compute capability; (0, 0) is the interpreter."""
    if precision == "float32":
        precision = "tf32x3" if capability in _TF32X3 else "ieee"
    turing = (0, 0) < capability < (8, 0)  # its tensor cores know neither TF32 nor bfloat16
    if turing or (precision == "tf32x3" and dim > _WIDEST_TF32X3):
        precision = "ieee"
    return Arithmetic(precision)
