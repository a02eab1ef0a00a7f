"""How far a fast float32 squared distance can be from the true one, and the frame it is computed in.

Expanded form F = |x|^2 + |y|^2 - 2 x.y in float32, any order of summation, u = 2^-24, D terms:

    |F - d^2| <= c (|x| + |y|)^2 <= c (2|x| + d)^2 <= c (8|x|^2 + 2 d^2),     c = (D + 32) u / (1 - (D + 32) u)

(Higham 2002, section 3.1: a dot product that starts from |y|^2 is off by at most (D + 1) u (|y|^2 + 2|x||y|) to first
order; the norms are summed in float64, and the 32 covers the rounding of their terms, of the rows into the frame, and
of the final additions.) Since |y| <= |x| + d, the bound needs the row and its own distance only: one far-away pick does
not blur the others. Both directions follow by one formula, `widen`:

    d^2 <= widen(F),  and  d <= m  implies  F <= widen(m^2),     widen(v) = (v + 8c|x|^2 + tiny) (1 + 3c).

(c <= 1/6 is needed; the tiny absolute part covers underflow.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import LARGEST, raise_unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .together import Together

UNIT = 2.0**-24
_EXACT_INTEGERS = 2.0**24
_CHUNK_ELEMENTS = {"cpu": 1 << 19}
_SAMPLE, _SAMPLE_ELEMENTS = 1024, 1 << 20  # rows that place the centre
SAFE_EXPONENT = 20  # |x| within 2^-20 .. 2^20 neither overflows nor underflows when squared in float32


@dataclass(frozen=True)
class ErrorBound:
    """|F - d^2| <= norm * |x|^2 + relative * d^2 + absolute, in the units of the frame."""

    relative: float
    norm: float
    absolute: float

    @property
    def exact(self) -> bool:
        """Whether F is the true squared distance (integer-valued features)."""
        return self.relative == 0.0

    def widen(self, squared: Tensor, sq_norm: Tensor) -> Tensor:  # [R] float64, [R] -> [R] float64
        """The largest true d^2 behind F = squared; equally the largest F behind a true d^2 = squared."""
        if self.exact:
            return squared
        return (squared.clamp_min(0) + self.norm * sq_norm.double() + self.absolute) * (1 + self.relative)


def expanded_bound(dim: int, exponent: int) -> ErrorBound:
    """The bound of the expanded form, for rows of `dim` features of size up to 2^exponent."""
    c = (dim + 32) * UNIT / (1 - (dim + 32) * UNIT)
    # The norms that `widen` is given are rounded themselves: 4c covers that.
    return ErrorBound(relative=3 * c, norm=8 * c * (1 + 4 * c), absolute=dim * 2.0 ** (exponent - 120))


@dataclass(frozen=True)
class Frame:
    """Where the fast arithmetic happens: float32 rows (x - centre) * scale; the scale is a power of two."""

    centre: Tensor | None  # [D] float64
    scale: float
    error: ErrorBound

    def rows(self, x: Tensor) -> Tensor:  # [R, D] -> [R, D] float32
        """Rows as the fast arithmetic sees them: rounded once; untouched where nothing needs doing."""
        if self.centre is None and self.scale == 1.0:
            return x.float()
        shifted = x.double()
        if self.centre is not None:
            shifted = shifted - self.centre
        return (shifted * self.scale).float()


def row_chunks(x: Tensor) -> Iterator[slice]:
    """Slices of rows: on the CPU of a size that stays in cache."""
    step = max(1, _CHUNK_ELEMENTS.get(x.device.type, 1 << 24) // x.shape[1])
    return (slice(lo, min(lo + step, x.shape[0])) for lo in range(0, x.shape[0], step))


def row_norms(rows: Tensor) -> Tensor:  # [R, D] float32 -> [R] float32
    """Squared norms, summed in float64: the error bound counts on it."""
    return rows.square().sum(1, dtype=torch.float64).float()


def squared_norms(x: Tensor, frame: Frame) -> Tensor:  # [N, D] -> [N] float32
    """Squared norms of the rows in the frame."""
    out = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    for part in row_chunks(x):
        out[part] = row_norms(frame.rows(x[part]))
    return out


def sample_rows(x: Tensor) -> Tensor:  # [N, D] -> [S, D]
    """Some rows, evenly spaced, to place a centre by."""
    return x[:: -(-x.shape[0] // max(1, min(_SAMPLE, _SAMPLE_ELEMENTS // x.shape[1])))]


def choose_frame(name: str, together: Together | None = None, **matrices: Tensor) -> tuple[Frame, Tensor]:
    """Look over the rows once, refuse unusable ones, and choose a common frame for all matrices.

    Centring costs a copy of every tile, so it is done only where the centre dominates: there it shrinks |x|^2, hence
    the bound, 16-fold or more. The centre is a median of some rows of the first matrix: a few far-away rows, which
    would drag a mean along and drown the others' digits, do not move it. Integer-valued rows of small size stay as
    they are: float32 is then exact in any order.

    Parameters
    ----------
    name : public function, for the error message.
    together : the ranks whose rows are compared with each other; each has a centre of its own.
    matrices : [N, D] each, any float dtype, by the name that the message should use.

    Returns
    -------
    frame, and the squared norms [N] float32 of the first matrix in it.
    """

    def look() -> list[_Look]:
        return [_look_over(name, what, x) for what, x in matrices.items()]

    looks = look() if together is None else together.agree(look)
    x = next(iter(matrices.values()))
    dim, norms = x.shape[1], looks[0].sq_norm
    largest, integral = max(look.largest for look in looks), all(look.integral for look in looks)
    if together is not None:
        largest, integral = together.most(largest), together.most(float(not integral)) == 0
    if integral and 4 * dim * largest**2 <= _EXACT_INTEGERS:
        return Frame(None, 1.0, ErrorBound(0.0, 0.0, 0.0)), norms

    plain = 2.0**-SAFE_EXPONENT <= largest <= 2.0**SAFE_EXPONENT
    # Out of that range the largest value goes to 2^40, far from overflow, so that others keep room below it. The cap
    # keeps `absolute` above what the float64 squares of subnormal differences lose.
    exponent = SAFE_EXPONENT if plain else 41
    scale = 1.0 if plain or largest == 0 else 2.0 ** min(40 - math.frexp(largest)[1], 450)
    if x.shape[0] == 0:
        return Frame(None, scale, expanded_bound(dim, exponent)), norms
    sample = sample_rows(x).double()
    centre = sample.median(0).values
    dominated = 16 * (sample - centre).square_().sum(1).median() < sample.square().sum(1).median()
    frame = Frame(centre if bool(dominated) else None, scale, expanded_bound(dim, exponent))
    return frame, norms if frame.centre is None and scale == 1.0 else squared_norms(x, frame)


@dataclass
class _Look:
    sq_norm: Tensor  # [N] float32, uncentred
    largest: float
    integral: bool


def _look_over(name: str, what: str, x: Tensor) -> _Look:
    norms = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    largest = torch.zeros((), dtype=torch.float64, device=x.device)
    integral = True
    for part in row_chunks(x):
        rows = x[part]
        norms[part] = row_norms(rows.float())
        largest = torch.maximum(largest, rows.abs().max())  # a NaN stays
        integral = integral and bool((rows == rows.round()).all())
    if not float(largest) <= LARGEST:
        raise_unusable(name, what, x)
    return _Look(norms, float(largest), integral)
