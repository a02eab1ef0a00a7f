"""What the tiled machinery wants of a device: tiles of fast distances with a bound on their error.

Fast squared distances F are float32 values of any form and summation order, in the backend's frame, off by no more
than `error` says. Everything that decides is float64, by exact.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from ...rounding import ErrorBound, Frame


class KCenterTiles(Protocol):
    """Tiles of distances between features [N, D] and the picks made so far, which they hold."""

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


class KnnTiles(Protocol):
    """Tiles of distances between queries and one bank [M, D]."""

    frame: Frame
    error: ErrorBound
    tile_rows: int  # query rows a tile

    def smallest(self, tile: Tensor, count: int) -> tuple[Tensor, Tensor]: ...

    def within(self, tile: Tensor, limit: Tensor) -> Iterator[tuple[int, Tensor]]: ...
