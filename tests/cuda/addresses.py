"""Tensors as the C++ side takes them."""

from __future__ import annotations

import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def rows(x: torch.Tensor) -> tuple[int, str, int, int, int, int]:
    """(address, type, rows, columns, row stride, column stride)."""
    return x.data_ptr(), str(x.dtype).removeprefix("torch."), *x.shape, *x.stride()


def laid_out(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same values row by row, column by column, and with gaps."""
    wide = torch.full((2 * x.shape[0], 3 * x.shape[1] + 1), torch.nan, dtype=x.dtype)
    wide[::2, 1::3] = x
    return {"rows": x.contiguous(), "columns": x.t().contiguous().t(), "gaps": wide[::2, 1::3]}
