"""How much device memory a search may use."""

from __future__ import annotations

import torch

from .launch import captured

_ENOUGH = 1 << 30  # bytes from which more memory does not make a search faster
_CAPTURED = 1 << 28  # bytes while a graph is captured, when the device is not asked what is free


def memory_limit(asked: int | None, device: torch.device) -> int:
    """Bytes that a search may use: what was asked, or half of what is free, as far as that is of use."""
    if asked is not None:
        return asked
    if device.type != "cuda" or captured(device):
        return _CAPTURED
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_ENOUGH, (torch.cuda.mem_get_info(device)[0] + reusable) // 2)
