"""Short rows: coordinates along a few leading directions and the length of the rest, for lower bounds of distances.

Of a row z in a frame, z = (x - centre) * scale in real numbers, with orthonormal Q [D, r] the short row is

    s = (z Q, |z - z Q Q^T|),     |s_x - s_y| <= |z_x - z_y|:

along Q the two agree, and beside it ||r_x| - |r_y|| <= |r_x - r_y|. So whatever is no farther than m from x has a short
row no farther than m from x's. Leading principal directions leave the least in r. Q and s are computed, so

    |s computed - s| <= share |z| + tiny,     share = a + sqrt(b) + 2^-22,  u = 2^-53, g(n) = n u / (1 - n u),
    a = skew + sqrt(r) g(D + 2) 1.01                  of z V, for V [D, r] in place of Q
    b = g(D + 6) + g(r + 4) + 2.1 a                   of |z|^2 - |z V|^2, relative to |z|^2

for float64 products in any order of summation (Higham 2002, section 3.1), rounded to float32 in the end, as z may be in
the beginning. skew bounds the Frobenius norm of V^T V - 1; the singular values of V then lie within skew of 1, so V is
within skew of its polar factor, which is orthonormal: that is Q. The root of b is |sqrt(p) - sqrt(q)| <= sqrt(|p - q|).
Then

    d(x, y) <= m  implies  |s_x - s_y computed| <= m + share (2 |z_x| + m) + 2 tiny,

since |z_y| <= |z_x| + m: nothing of y is needed, and a far-away row does not blur the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

UNIT = 2.0**-53
MOST_COLUMNS = 4096  # up to which finding directions costs little
_SAMPLE, _WIDE = 4096, 1024  # rows that directions come from; columns from which their products are taken instead
_SPREAD = 0.9  # as few directions as hold that much of the spread
_STEP = 1 << 20  # elements converted at a time
_LEAST = 1e-9  # of the largest variance: below it a direction is rounding


@dataclass(frozen=True)
class Slack:
    """How far a computed short row may be off: share |z| + tiny; see above."""

    share: float
    tiny: float

    def between(self, distance: Tensor, norm: Tensor) -> Tensor:
        """How far apart short rows may be, of rows no farther apart than `distance`, one of them no longer than `norm`.

        [N] float64 each, in the units of the frame.
        """
        return (distance + self.share * (2 * norm + distance) + 2 * self.tiny) * (1 + 2.0**-40)

    def longest(self, short: Tensor) -> Tensor:  # [N, r + 1] -> [N] float64
        """Bounds of |z|, from |s| = |z|."""
        return (short.double().square().sum(1).sqrt_() + self.tiny) * (1 + 2 * self.share)


def slack_of(directions: Tensor) -> Slack:
    """What short rows along these directions [D, r] may be off by. They must be orthonormal up to rounding."""
    dim, count = directions.shape
    identity = torch.eye(count, dtype=torch.float64, device=directions.device)
    skew = float((directions.t() @ directions - identity).norm()) * 1.01 + 2 * count * _rounding(dim + 2)
    if not skew < 2.0**-20:
        raise RuntimeError(f"the directions are not orthonormal, by {skew:.3g}")
    a = skew + math.sqrt(count) * _rounding(dim + 2) * 1.01
    b = _rounding(dim + 6) + _rounding(count + 4) + 2.1 * a
    return Slack(a + math.sqrt(b) + 2.0**-22, math.sqrt(count + 1) * 2.0**-148)


def _rounding(terms: int) -> float:
    return terms * UNIT / (1 - terms * UNIT)


def short_rows(x: Tensor, centre: Tensor | None, scale: float, directions: Tensor) -> Tensor:
    """Short rows [N, r + 1] float32 of x [N, D] along directions [D, r] float64; infinite where float32 ends."""
    out = torch.empty(x.shape[0], directions.shape[1] + 1, dtype=torch.float32, device=x.device)
    for lo in range(0, x.shape[0], step := max(1, _STEP // x.shape[1])):
        z = _framed(x[lo : lo + step], centre, scale)
        along = z @ directions
        out[lo : lo + step, :-1] = along
        out[lo : lo + step, -1] = (z.square_().sum(1) - along.square_().sum(1)).clamp_min_(0).sqrt_()
    return out


def leading_directions(
    x: Tensor, centre: Tensor | None, scale: float, counts: tuple[int, ...], most: int, always: bool = False
) -> tuple[Tensor, int] | None:
    """Leading principal directions [D, up to most] float64 of some rows of a bank [M, D], and how many short rows take.

    That is the least of `counts` (ascending) that holds most of the spread, of at most half the columns; `always`: that
    half where it is less. None where there are too few columns to leave any out, very many, or no spread.
    """
    dim = x.shape[1]
    counts = tuple(c for c in counts if 2 * c <= dim) or ((dim // 2,) if always and dim > 1 else ())
    if not counts or dim > MOST_COLUMNS:
        return None
    wide = dim > _WIDE
    sample = _framed(x[:: -(-x.shape[0] // (_WIDE if wide else _SAMPLE))], centre, scale)
    sample -= sample.mean(0)
    values, vectors = torch.linalg.eigh(sample @ sample.t() if wide else sample.t() @ sample)
    values, vectors = values.flip(0), vectors.flip(1)
    real = int((values > _LEAST * values[0]).sum()) if bool(values[0] > 0) else 0
    if real == 0:
        return None
    held = values.cumsum(0) / values.clamp_min(0).sum()
    count = next((c for c in counts if c <= len(held) and held[c - 1] >= _SPREAD), counts[-1])
    chosen = vectors[:, : min(max(count, most), real)]
    if wide:  # eigenvectors of the products of rows: the same directions, once they are orthonormal
        chosen = torch.linalg.qr(sample.t() @ chosen).Q
    return chosen.contiguous(), min(count, real)


def _framed(x: Tensor, centre: Tensor | None, scale: float) -> Tensor:  # [N, D] -> [N, D] float64, a copy
    z = x.to(torch.float64, copy=True)
    return (z if centre is None else z.sub_(centre)).mul_(scale)
