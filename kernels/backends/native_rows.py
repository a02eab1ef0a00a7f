"""Rows as the native engine (csrc/cpu) takes them, the frame that they are compared in, and a whole search."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import LARGEST, raise_unusable
from ..surroundings import engine_threads
from ..together import Together
from .native_library import native

_INTEGERS = {"avx2": "avx2i", "avx512": "avx512"}  # kernels of 16-bit integers; that of AVX-512 needs VNNI
_SAMPLE, _SAMPLE_ELEMENTS = 256, 1 << 18  # rows that place the centre
_LONGEST_INTEGERS = 31999.0  # just below the norm that 16-bit products stand (csrc/cpu/tile_vnni.cpp)
_COARSE = 2.0**-8  # mean relative error from which rounding to integers leaves too much to settle
_NORM2 = (2.0**-40, 2.0**50)  # largest squared norms that float32 squares and sums without trouble


def addressable(x: Tensor) -> Tensor:
    """x, or a copy where its memory cannot be read in place: off its type's alignment, or not there (a zero tensor)."""
    address = x.data_ptr()
    return x if address and address % x.element_size() == 0 else x.clone().contiguous()


def describe(x: Tensor) -> tuple[int, str, int, int, int, int]:
    """Address, type, rows, columns and strides in elements, as the native module takes a matrix."""
    return x.data_ptr(), str(x.dtype).removeprefix("torch."), *x.shape, *x.stride()


def look_over(
    name: str,
    threads: int,
    together: Together | None = None,
    room: float = 1.0,
    integers: bool = False,
    **matrices: Tensor,
) -> list[Any]:
    """Look over the rows in a common frame, refuse unusable ones: one native Look a matrix.

    The frame is centred on the median of some rows of the first matrix: packing costs the same with and without a
    centre, and shorter rows make for a smaller error bound. Far-away rows do not move a median, and that of integers
    is an integer.

    Parameters
    ----------
    name : public function, for the error message.
    together : the ranks whose rows are compared with each other: one frame for all.
    room : how many times longer than these rows others in the frame may be.
    integers : with AVX2 too products may be those of 16-bit integers, where rounding to them loses little.
    matrices : [N, D] each, any float dtype, by the name that the message should use.
    """
    x = next(iter(matrices.values()))
    centre = _centre_of(x) if together is None else together.gather(_centre_of(x)[: x.shape[0]])
    centre = centre[0].contiguous()
    if not bool(centre.isfinite().all()):
        centre.zero_()

    def most(value: Callable[[], float]) -> float:
        return value() if together is None else together.most(together.agree(value))

    def looks(isa: str, scale: float) -> list[Any]:
        return [native().Look(describe(x), isa, centre.data_ptr(), scale, threads) for x in matrices.values()]

    isa = native().isa()
    whole = _INTEGERS.get(isa) if integers or isa == "avx512" else None
    floats = "avx512f" if isa == "avx512" else isa
    plain = looks(floats, 1.0)
    largest = most(lambda: max(look.largest_norm2 for look in plain))
    if largest == 0 or _NORM2[0] <= largest <= _NORM2[1]:
        if whole is None or largest == 0:
            return plain
        longest = _LONGEST_INTEGERS / (room * math.sqrt(largest))
        rounded = looks(whole, 2.0 ** math.floor(math.log2(longest)))
        return rounded if max(look.coarse for look in rounded) <= _COARSE else plain
    # The largest value goes to 2^40, far from overflow, so that others keep room below it; the cap keeps the bound
    # above what the float64 squares of subnormal differences lose.
    largest = most(lambda: max(_largest(name, what, x) for what, x in matrices.items()))
    return looks(floats, 2.0 ** min(40 - math.frexp(largest)[1], 450))


def _centre_of(x: Tensor) -> Tensor:  # [N, D] -> [1, D] float64, values of float32
    """The median of some rows."""
    if x.shape[0] == 0:
        return torch.zeros(1, x.shape[1], dtype=torch.float64, device="cpu")
    step = -(-x.shape[0] // max(1, min(_SAMPLE, _SAMPLE_ELEMENTS // x.shape[1])))
    return x[::step].double().median(0, keepdim=True).values.float().double()


def _largest(name: str, what: str, x: Tensor) -> float:
    """The largest |x|.

    Raises
    ------
    ValueError : rows that are not finite, or too large.
    """
    value = float(x.abs().max()) if x.shape[0] else 0.0  # a NaN stays
    if not value <= LARGEST:
        raise_unusable(name, what, x)
    return value


def search(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Canonical squared distances [Q, k] float64 ascending and rows [Q, k] int64."""
    query, bank = addressable(query), addressable(bank)
    threads = engine_threads()
    of_bank, of_query = look_over("knn", threads, integers=True, bank=bank, query=query)
    squared = torch.empty(query.shape[0], k, dtype=torch.float64, device="cpu")
    rows = torch.empty(query.shape[0], k, dtype=torch.int64, device="cpu")
    native().knn(describe(query), describe(bank), of_query, of_bank, k, threads, squared.data_ptr(), rows.data_ptr())
    return squared, rows
