"""Feature rows as the scores read them: in chunks, on one device, in sums whose order no chunk size changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inputs import as_rows
from ..kernels.checks import LARGEST, check_int, raise_unusable
from ..kernels.exact import halving_sum, root, squared_distance

CHUNK_SIZE = 1 << 16
# Elements that torch works on in one thread: such blocks stay in cache, and where another program holds a core no
# thread waits for one that is not running, which costs many times what two threads could gain.
SERIAL = 1 << 15


@dataclass(frozen=True)
class Rows:
    """Checked rows [N, D].

    x : where the features are, untouched.  device : where they are worked on.  chunk_size : rows at a time.
    largest : the largest magnitude among them.
    """

    x: Tensor
    device: torch.device
    chunk_size: int
    largest: float

    @property
    def shape(self) -> torch.Size:
        return self.x.shape

    def chunks(self, multiple: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """(slice, its rows on the device) in order; `chunk_size` rounded up to a multiple of `multiple` rows."""
        step = -(-self.chunk_size // multiple) * multiple
        for lo in range(0, self.x.shape[0], step):
            part = slice(lo, min(lo + step, self.x.shape[0]))
            yield part, self.x[part].to(self.device)

    def take(self, rows: Tensor) -> Tensor:
        """The rows of these numbers, on the device: [R] int64 -> [R, D]."""
        return self.x[rows.to(self.x.device)].to(self.device)


def read_rows(
    name: str,
    features: Any,
    device: torch.device | str | None,
    chunk_size: int,
    what: str = "features",
    empty: bool = False,
) -> Rows:
    """Check features [N, D], N >= 1 unless they may be `empty`, device and chunk size, and look over the rows once.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape, a device that cannot be used, chunk_size < 1, rows that
    are not finite (their count and the first).
    """
    x = as_rows(name, features, what)
    if x.shape[0] == 0 and not empty:
        raise ValueError(f"{name}: {what} must hold at least one row, got shape {tuple(x.shape)}")
    chunk_size = check_int(name, "chunk_size", chunk_size, 1, 2**62)
    place = check_device(name, device, x)
    largest = 0.0
    for part in x.split(chunk_size) if x.shape[0] else ():
        low, high = part.aminmax()  # both are NaN where one value is
        size = max(-float(low), float(high))
        if not size <= LARGEST:
            raise_unusable(name, what, x)
        largest = max(largest, size)
    return Rows(x, place, chunk_size, largest)


def check_device(name: str, device: torch.device | str | None, x: Tensor) -> torch.device:
    """The device to work on: `device`, which must be usable here, or that of `x`."""
    if device is None:
        return x.device
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (TypeError, RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name}: device must be one that torch can use here, got {device!r}: {reason}") from None
    return place


def check_seed(name: str, seed: Any) -> int:
    """A seed that both torch and NumPy take."""
    return check_int(name, "seed", seed, 0, 2**32 - 1)


def check_number(name: str, what: str, value: Any) -> float:
    """A finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: {what} must be a number, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: {what} must be finite and > 0, got {value!r}")
    return float(value)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Exact distances of paired rows: [R, D], [R, D] or [D] -> [R] float64. The value does not depend on R."""
    out = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    step = max(1, (SERIAL if x.device.type == "cpu" else 1 << 24) // x.shape[1])
    for lo in range(0, x.shape[0], step):
        part = slice(lo, lo + step)
        out[part] = squared_distance(x[part], y if y.ndim == 1 else y[part])
    return root(out)


def moments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and mean squared deviation of every column, [D] float64 each, on the device.

    Blocks of rows are merged in order (Chan, Golub and LeVeque, 1983), so that a far-away mean costs no digits.
    """
    count, block = 0, max(1, SERIAL // rows.shape[1])  # the same whatever the chunk
    mean = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    squares = torch.zeros_like(mean)
    for _, chunk in rows.chunks(block):
        for part in chunk.split(block):
            size = part.shape[0]
            columns = part.t().double().contiguous()
            centre = halving_sum(columns.clone()) / size
            within = halving_sum(columns.sub_(centre[:, None]).square_())
            step = centre - mean
            squares += within + step.square() * (count * size / (count + size))
            mean += step * (size / (count + size))
            count += size
    return mean, squares / count
