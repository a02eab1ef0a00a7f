"""Tensors as the C++ side takes them."""

from __future__ import annotations

import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def rows(x: torch.Tensor) -> tuple[int, str, int, int, int, int]:
    """(address, type, rows, columns, row stride, column stride)."""
    return x.data_ptr(), str(x.dtype).removeprefix("torch."), *x.shape, *x.stride()


# A search for 2 neighbours of up to 4 queries in 30 rows of 5 columns, at an address where nothing is: for what is
# refused before anything is launched.
SIZES = {"k": 2, "slots": 8, "pitch": 8, "queries": 4, "chunk": 30, "splits": 1, "rescuers": 1}
SIZES |= {"query_in_place": False, "bank_in_place": False}
_F32 = {"centre": 5, "packed": 32, "packed_norm": 4, "packed_bank": 240, "norm": 30}
_TYPES = {"float32": _F32, "float64": {"params": 5, "reach": 4, "part_exact": 32}}
_TYPES |= {"int64": {"kept": 32, "crowded": 4}, "int32": {"count": 1, "part_row": 32}}
BUFFERS = {name: (64, word, count) for word, lengths in _TYPES.items() for name, count in lengths.items()}


def laid_out(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same values row by row, column by column, and with gaps."""
    wide = torch.full((2 * x.shape[0], 3 * x.shape[1] + 1), torch.nan, dtype=x.dtype)
    wide[::2, 1::3] = x
    return {"rows": x.contiguous(), "columns": x.t().contiguous().t(), "gaps": wide[::2, 1::3]}
