"""Which arithmetic the bulk of the work runs in, and how far its float32 distances can then be off.

u = 2^-24, D columns, rows x and y in the frame. All but ffma compute F = |x|^2 + |y|^2 - 2 x.y; rounding.py turns
|F - d^2| <= c (|x| + |y|)^2 into the bound that decisions rest on.

ieee     float32 multiply-adds in any order: c = (D + 32) u, see rounding.py.
tf32x3   x = x_hi + x_lo, x_hi rounded to TF32 (11 bits, |x - x_hi| <= 2^-11 |x|), x_lo cut to as many by the tensor
         core (off by 2^-21 |x| at most); x_hi y_hi + x_hi y_lo + x_lo y_hi leaves out at most 5 * 2^-22 |x||y|
         = 20 u |x||y|. Products of 11-bit numbers are exact. Tensor cores add 4 or 8 of them to the accumulator at
         once and cut every addend below the last of at least 24 bits of the largest (Fasi, Higham, Mikaitis and
         Pranesh, Numerical behavior of NVIDIA tensor cores, 2021): at most 6 addends of 2 u each for every 4 columns.
         A chunk of C columns (8 in csrc/cuda, a tile's depth of at most 64 in Triton) is summed from zero, small
         products first, and its sum is added to the others in float32: 3 min(C, D) u |x||y| for the large products,
         2^-11 of that for the small ones, and at most D / C + 1 additions of u |x||y| each. (Were all three products of
         all chunks added to one accumulator, every step would cut at the accumulator's last bit: 9 D u.) Twice an
         inner product enters F, and 2 |x||y| <= (|x| + |y|)^2 / 2, so c = (4 D + 64) u has room.
half     rows that are float16 or bfloat16 themselves, of one type, neither centred nor scaled: x.y of the values as
         they are, in one product. Products of numbers of 11 or 8 bits are exact in float32, and tensor cores treat sums
         as for tf32x3: 4, 8 or 16 products at once, so that 6 addends of 2 u for every 4 columns is the most. Added to
         one accumulator or chunk by chunk, x.y is off by at most 3 D u |x||y|, or 3 C u and D / C + 1 additions. Twice
         that enters F, 1.5 D u (|x| + |y|)^2, and norms and the last two additions take 16 u: c = (2 D + 64) u.
         Products below 2^-126, which bfloat16 has, are what `absolute` is for.
tf32, bf16  one product of rounded rows: no useful certificate. They are given the bound of ieee, so that picks are
         what this arithmetic says: asked for by name only.
ffma     F = sum of (x_i - y_i)^2 in float32, multiply and add fused, in any order. Rows that float32 holds as they are
         lose nothing on the way into the frame, which then only scales by a power of two. x_i - y_i is rounded once,
         off by the factor (1 + e), |e| <= u; its square enters at most D additions. All terms have one sign, so each
         factor stays a factor of F: |F - d^2| <= ((1 + u)^(D + 2) - 1) d^2 <= c d^2 with c = (D + 12) u / (1 - ...).
         The row's norm plays no part: no row is far from the origin.
         float64 rows are rounded into the frame, x' = x (1 + e): the distance of the rounded rows, d', differs from d
         by at most s = u (|x| + |y|) <= u (2 |x| + d), so |d'^2 - d^2| <= s (2 d + s) <= 4 u |x| d + 2 u d^2 + s^2
         <= u |x|^2 + 6 u d^2 + s^2, since 4 |x| d <= |x|^2 + 4 d^2, and s^2 <= 8 u^2 |x|^2 + 2 u^2 d^2. Of the 12 in c
         2 are for the terms and 6 for these; norm = 2 u holds the rest and the rounding of the norm itself.
         Underflow: a square below 2^-126 is off by 2^-150 at most, and so is a coordinate that the scale pushes below
         2^-126, times d: `absolute` is beyond both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...rounding import UNIT, ErrorBound

WIDEST_TF32X3 = 1 << 16  # columns up to which its bound stays small
# Data-centre cards, whose tensor cores take TF32 at eight times the rate of float32 or more. On GeForce-class cards
# TF32 runs at the rate of float32, or twice it: three products there gain nothing.
TF32X3_CARDS = frozenset({(8, 0), (9, 0), (10, 0), (10, 3)})
FIRST_HALF = (8, 0)  # compute capability from which tensor cores take both kinds of halves


@dataclass(frozen=True)
class Arithmetic:
    """How a fast distance is taken. `mode`: ieee, tf32x3, half, tf32, bf16, or ffma (the difference form)."""

    mode: str

    @property
    def certified(self) -> bool:
        """Whether the bound below is a proven one."""
        return self.mode in ("ieee", "tf32x3", "half", "ffma")

    @property
    def difference(self) -> bool:
        """Whether rows are subtracted before anything is multiplied: then a common offset costs nothing."""
        return self.mode == "ffma"

    def bound(self, dim: int, exponent: int, rounded: bool = True) -> ErrorBound:
        """Of rows of `dim` features of size up to 2^exponent; `rounded`: float32 does not hold them as they are."""
        absolute = dim * 2.0 ** (exponent - 120)
        if self.difference:
            c = (dim + 12) * UNIT
            return ErrorBound(relative=c / (1 - c), norm=2 * UNIT if rounded else 0.0, absolute=absolute)
        terms = {"tf32x3": 4 * dim + 64, "half": 2 * dim + 64}.get(self.mode, dim + 32)
        c = terms * UNIT
        c /= 1 - c
        return ErrorBound(relative=3 * c, norm=8 * c * (1 + 4 * c), absolute=absolute)


def halves(precision: str, *matrices: Tensor) -> bool:
    """Whether all rows are halves of one type that may be multiplied as they are: "half" above, if the card can."""
    kinds = {matrix.dtype for matrix in matrices}
    whole = precision == "float32" and matrices[0].shape[1] <= WIDEST_TF32X3
    return whole and len(kinds) == 1 and kinds <= {torch.float16, torch.bfloat16}
