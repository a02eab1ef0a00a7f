"""What a backend must provide. The drivers know nothing else of it.

Fast squared distances F are float32 values of any form and summation order, in the backend's frame, off by no more
than `error` says. Everything that decides is float64, by exact.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..rounding import ErrorBound, Frame


class KCenterLeaves(Protocol):
    """Leaf kernels of k-center greedy over features [N, D]; they hold the picks made so far."""

    features: Tensor  # [N, D] as the caller has them
    error: ErrorBound
    scale: float  # of the frame, a power of two
    sq_norm: Tensor  # [N] float32, in the frame
    count: int  # picks appended

    def append(self, rows: Tensor) -> None: ...

    def tile(self, rows: Tensor) -> Tensor: ...

    def min_squared(self, tile: Tensor, sq_norm: Tensor, lo: int, hi: int) -> Tensor: ...

    def squared_block(self, tile: Tensor, sq_norm: Tensor) -> Tensor: ...

    def exact_min(self, rows: Tensor, tile: Tensor, sq_norm: Tensor, reach: Tensor, since: Tensor) -> Tensor: ...


class KnnLeaves(Protocol):
    """Leaf kernels of the k-nearest-neighbour search in one bank [M, D]."""

    frame: Frame
    error: ErrorBound
    tile_rows: int  # query rows a tile

    def smallest(self, tile: Tensor, count: int) -> tuple[Tensor, Tensor]: ...

    def within(self, tile: Tensor, limit: Tensor) -> Iterator[tuple[int, Tensor]]: ...


@dataclass(frozen=True)
class Backend:
    """One set of leaf kernels. `refuse` gives the reason why it cannot run on a device, or None if it can."""

    name: str
    refuse: Callable[[torch.device], str | None]
    k_center: Callable[[str, Tensor, int], KCenterLeaves]  # (public name, features, most picks)
    knn: Callable[[str, Tensor, Tensor], KnnLeaves]  # (public name, query, bank)
