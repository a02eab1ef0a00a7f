"""Where the CUDA kernels are: `_native.cuda` for CUDA devices, and for tests the same sources built for the CPU.

The emulated module is never chosen by itself: it is used for CPU tensors where PATCHCORE_FAST_CUDA_EMULATED has its
path. Its kernels are the CUDA sources, each thread a fiber: slow, and for tests of results only.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch

from ..device import layout
from ..native_library import native, native_refusal

VARIABLE = "PATCHCORE_FAST_CUDA_EMULATED"
_EMULATED = "_native_emulated"
_NOT_BUILT = "patchcore_fast was built without CUDA kernels; docs/lab-machines.md"
_NONE = -1  # the ordinal that stands for the emulated device


def refusal(device: torch.device) -> str | None:
    """Why there are no kernels for tensors of this device, or None; what the device itself can is not looked at."""
    if device.type == "cpu":
        path = os.environ.get(VARIABLE)
        if not path:
            return "CUDA kernels run on CUDA devices"
        found = _emulated(path)
        return found if isinstance(found, str) else None
    if (reason := native_refusal()) is not None:
        return reason
    module: Any = native()
    if hasattr(module, "cuda"):
        return _stale(module)
    return module.cuda_refusal() if hasattr(module, "cuda_refusal") else _NOT_BUILT


def emulated() -> bool:
    """Whether CPU tensors can be had on the emulated kernels."""
    return bool(os.environ.get(VARIABLE))


def library(device: torch.device) -> Any:
    """The functions that enqueue kernels for tensors of this device.

    Raises
    ------
    RuntimeError : there are none; the message gives the reason.
    """
    if (reason := refusal(device)) is not None:
        raise RuntimeError(f"no CUDA kernels for {device}: {reason}")
    module: Any = _emulated(os.environ[VARIABLE]) if device.type == "cpu" else native()
    return module.cuda


@functools.cache
def device_info(number: int) -> dict[str, Any]:
    """What the kernels know of a CUDA device: "arch", "multiprocessors", "driver", "runnable", "reason".

    Raises
    ------
    RuntimeError : the driver cannot be asked.
    """
    module: Any = native()
    return module.cuda.device_info(number)


def ordinal(device: torch.device) -> int:
    """The number by which the kernels know a device."""
    if device.type != "cuda":
        return _NONE
    if device.index is not None:
        return device.index
    return torch.cuda.current_device() if torch.cuda.is_initialized() else 0


def stream(device: torch.device) -> int:
    """Address of the stream that is current on the device."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of the device, or what the emulation pretends to have."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)
    arch = library(device).device_info(_NONE)["arch"]
    return arch // 10, arch % 10


@functools.cache
def _emulated(path: str) -> Any | str:
    """The emulated module of this file, or why it cannot be loaded."""
    spec = importlib.util.spec_from_file_location(_EMULATED, path)
    if spec is None or spec.loader is None:
        return f"{VARIABLE}: {path} is no Python module"
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as e:
        return f"{VARIABLE}: {path} cannot be loaded: {e}"
    return _stale(module) or module if hasattr(module, "cuda") else f"{VARIABLE}: {path} has no CUDA kernels"


@functools.cache
def _stale(module: Any) -> str | None:
    """Whether kernels and Python disagree on where numbers are: the module was built from other sources."""
    theirs = module.cuda.kcenter_layout()
    different = sorted(name for name, value in theirs.items() if value != getattr(layout, name, None))
    return f"the native module was built from other sources: {', '.join(different)} differ" if different else None
