"""How much device memory a search may use."""

from __future__ import annotations

import torch

from .launch import captured

ENOUGH = 1 << 30  # bytes from which more memory does not make a search faster
# Bytes that a search takes without asking the device what is free: the answer costs the host more than a small search.
UNASKED = 1 << 28


def memory_limit(device: torch.device) -> int:
    """Bytes that a search may use: half of what is free, as far as that is of use.

    While a CUDA graph is captured the device is not asked: UNASKED.
    """
    if device.type != "cuda" or captured(device):
        return UNASKED
    return min(ENOUGH, free_memory(device) // 2)


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a CUDA device; of the CPU, where kernels are emulated, twice ENOUGH."""
    if device.type != "cuda":
        return 2 * ENOUGH
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reusable
