"""What every launch needs to know of the device."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

import torch

_EMULATED_PROGRAMS = 2


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability; (0, 0) is the CPU: Triton's interpreter."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors: what the grids of kernels that take work until none is left are sized by."""
    if device.type != "cuda":
        return _EMULATED_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Kernels are launched on the current device, in its current stream."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def captured(device: torch.device) -> bool:
    """Whether the call becomes part of a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
