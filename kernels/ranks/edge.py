"""A value that enough keys of all ranks reach: histograms over the bits of the keys, added up.

Float64 that is not negative has the order of its bits. The first histogram is over sign and exponent, the second over
eleven more bits. Keys only sink, so the exponent wanted is mostly that of the last edge or one of a few below it: the
second histograms of these go along with the first, and one exchange does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .group import Ranks

_BINS, _EXPONENT, _NEXT = 2048, 52, 41  # of a histogram; where its bits begin
_WINDOW = 8  # exponents


class SharedEdge:
    """See above; all ranks ask at the same time."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._top = ranks, _BINS - 1

    def find(self, key: Tensor | None, wanted: int) -> float:
        """A value that at least `wanted` keys reach, those below zero not counted; 0.0 where there are not that many.

        key : this rank's [N] float64, None for no rows.
        """
        bits = torch.empty(0, dtype=torch.int64)
        if key is not None:
            bits = key[key >= 0].view(torch.int64) >> _NEXT  # where the keys are: only counts leave the device
        low = max(0, self._top - _WINDOW + 1)
        whole = torch.bincount(bits >> (_EXPONENT - _NEXT), minlength=_BINS)
        some = bits[(bits >= low * _BINS) & (bits < (low + _WINDOW) * _BINS)] - low * _BINS
        told = self._ranks.sum(torch.cat([whole, torch.bincount(some, minlength=_WINDOW * _BINS)]))
        exponent, left = _reached(told[:_BINS], wanted)
        if exponent < 0:
            return 0.0
        if low <= exponent < low + _WINDOW:
            fine = told[_BINS:].view(_WINDOW, _BINS)[exponent - low]
        else:
            inside = bits[(bits >> (_EXPONENT - _NEXT)) == exponent] & (_BINS - 1)
            fine = self._ranks.sum(torch.bincount(inside, minlength=_BINS))
        self._top = exponent
        place, _ = _reached(fine, left)
        edge = torch.tensor(exponent << _EXPONENT | place << _NEXT)
        return float(edge.view(torch.float64))


def _reached(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The bin from above that makes up the number, -1 if none does; what is wanted of it."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, wanted))
    return len(counts) - 1 - place, wanted - (int(above[place - 1]) if place else 0)
