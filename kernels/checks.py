"""Input checks shared by the public functions. Messages say what came in and what is wanted."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST_COLUMNS = 1 << 21  # the float32 error bound holds up to here (rounding.py)
LARGEST = 1e150  # beyond it a squared distance overflows float64


def check_matrix(name: str, what: str, x: Any, letters: str = "N, D", empty: bool = False) -> None:
    """A non-empty 2-D floating tensor. Its values are checked where they are first read."""
    if not isinstance(x, Tensor):
        hint = " (torch.from_numpy makes one of an ndarray)" if type(x).__name__ == "ndarray" else ""
        raise TypeError(f"{name}: {what} must be a torch.Tensor [{letters}], got {type(x).__name__}{hint}")
    if x.layout != torch.strided:
        raise TypeError(f"{name}: {what} must be dense, got layout {x.layout}")
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: {what} must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.ndim != 2:
        raise ValueError(f"{name}: {what} must be 2-D [{letters}], got shape {tuple(x.shape)}")
    if x.shape[1] > MOST_COLUMNS:
        raise ValueError(f"{name}: {what} may have at most {MOST_COLUMNS} columns, got {x.shape[1]}")
    if (x.shape[0] == 0 and not empty) or x.shape[1] == 0:
        raise ValueError(f"{name}: {what} must hold at least one row and one column, got shape {tuple(x.shape)}")


def check_vector(name: str, what: str, x: Any, length: int, device: torch.device) -> Tensor:
    """A floating [length] tensor on `device`, without NaN or negative values; as float64."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: {what} must be a torch.Tensor [{length}], got {type(x).__name__}")
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: {what} must be a floating tensor, got {x.dtype}")
    if x.shape != (length,):
        raise ValueError(f"{name}: {what} must have shape ({length},), one value a row, got {tuple(x.shape)}")
    if x.device != device:
        raise ValueError(f"{name}: {what} is on {x.device}, features are on {device}")
    bad = ~(x >= 0)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"{name}: {what} must be >= 0 and not NaN; {int(bad.sum())} of {length} are not, "
            f"the first at {first} ({float(x[first])})"
        )
    return x.detach().to(torch.float64, copy=True)


def check_rows(name: str, what: str, rows: Any, n: int, device: torch.device) -> Tensor:
    """A 1-D list of row numbers below n, as an int64 tensor on `device`."""
    if not isinstance(rows, Tensor):
        try:
            rows = torch.as_tensor(np.ascontiguousarray(rows) if isinstance(rows, np.ndarray) else rows)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name}: {what} must be row numbers [S], got {type(rows).__name__}") from None
    if rows.numel() == 0:
        rows = rows.to(torch.int64)
    if rows.dtype.is_floating_point or rows.dtype.is_complex or rows.dtype == torch.bool:
        raise TypeError(f"{name}: {what} must be integers, got {rows.dtype}")
    if rows.device.type == "meta":
        raise ValueError(f"{name}: {what} is on {rows.device}, features are on {device}")
    rows = rows.to(device=device, dtype=torch.int64)  # before comparing: small types would wrap
    if rows.ndim != 1:
        raise ValueError(f"{name}: {what} must be 1-D [S], got shape {tuple(rows.shape)}")
    bad = ((rows < 0) | (rows >= n)).nonzero()
    if bad.shape[0]:
        raise ValueError(f"{name}: {what} must lie in 0..{n - 1}, got {int(rows[bad[0, 0]])} at {int(bad[0, 0])}")
    return rows


def check_int(name: str, what: str, value: Any, lo: int, hi: int, why: str = "") -> int:
    """An integer in lo..hi."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {what} must be an integer, got {value!r}") from None
    if not lo <= number <= hi:
        raise ValueError(f"{name}: {what} must lie in {lo}..{hi}{why}, got {number}")
    return number


def raise_unusable(name: str, what: str, x: Tensor) -> None:
    """The error for rows that hold NaN, infinities or values too large for float64 squares."""
    first, count = -1, 0
    step = max(1, (1 << 22) // x.shape[1])
    for lo in range(0, x.shape[0], step):
        bad = (~(x[lo : lo + step].double().abs() <= LARGEST)).any(1).nonzero()
        if first < 0 and bad.shape[0]:
            first = lo + int(bad[0])
        count += bad.shape[0]
    row = x[first]
    kind = "exceed 1e150 in magnitude" if bool(torch.isfinite(row).all()) else "are not finite"
    raise ValueError(f"{name}: {what} must be finite; {count} of {x.shape[0]} rows {kind}, the first is row {first}")
