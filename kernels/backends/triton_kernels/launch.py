"""What every launch needs to know of the device."""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext

import torch

_INTERPRETER_PROGRAMS = 2


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels: decided by TRITON_INTERPRET when triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability; (0, 0) is the interpreter on the CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors: what the grids of kernels that take work until none is left are sized by."""
    if device.type != "cuda":
        return _INTERPRETER_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, in its current stream."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
