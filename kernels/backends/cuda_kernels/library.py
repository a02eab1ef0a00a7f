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
from torch import Tensor

from ..device import layout
from ..device.launch import captured, on_device
from ..device.precision import FIRST_HALF
from ..device.tensor_cores import BFLOAT16, FLOAT16, Probe, Questions
from ..native_library import native, native_refusal
from .precision import FIRST_TF32

VARIABLE = "PATCHCORE_FAST_CUDA_EMULATED"
_EMULATED = "_native_emulated"
_NOT_BUILT = "patchcore_fast was built without CUDA kernels; docs/lab-machines.md"
_WITHOUT_TF32 = (7, 5)
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


_told: dict[int, dict[str, Any]] = {}  # by ordinal: what will not change


def device_info(number: int) -> dict[str, Any]:
    """What the kernels know of a CUDA device: "arch", "code", "multiprocessors", "driver", "runnable", "reason".

    "code" is the compute capability that the code which runs there was compiled for: "arch", the card's, or less, as
    where the driver compiles PTX for it. Asked once, but for what may pass, such as a device without free memory. While
    a CUDA graph is captured a device that has not been asked is not asked: its capability then decides.

    Raises
    ------
    RuntimeError : the driver cannot be asked.
    """
    if number in _told:
        return _told[number]
    if captured(torch.device("cuda", number)):
        return _supposed(number)
    module: Any = native()
    told = module.cuda.device_info(number)
    if told["lasting"]:
        _told[number] = told
    return told


def _supposed(number: int) -> dict[str, Any]:
    """`device_info` from what was built alone: nothing may be loaded now."""
    major, minor = torch.cuda.get_device_capability(number)
    card, info = 10 * major + minor, library(torch.device("cuda", number)).info()
    own = [arch for arch in info["archs"] if arch // 10 == major and arch <= card]
    code = max(own, default=info["ptx"] if info["ptx"] <= card else 0)
    reason = "" if code else f"nothing compiled here runs on compute capability {major}.{minor}"
    return {"arch": card, "code": code, "runnable": code > 0, "reason": reason}


@functools.cache
def load_search(device: torch.device) -> None:
    """Load all kernels of a search, so that a later one can be captured in a graph: drivers for CUDA 12.2 and older
    load nothing then. The device is current.

    Raises
    ------
    RuntimeError : a kernel cannot be loaded; the message names it and CUDA's reason.
    """
    library(device).knn_load(ordinal(device))


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


def describe_array(x: Tensor) -> tuple[int, str, int]:
    """Address, type and elements of a contiguous tensor, as the kernels' library takes an array."""
    return x.data_ptr(), str(x.dtype).removeprefix("torch."), x.numel()


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability by which arithmetic is chosen: the card's, or what the emulation pretends to have.

    Where the code that runs there has no TF32, as PTX of 7.5 on newer cards, that of the code; and 7.5 where tensor
    cores do not add up as tf32x3 needs (TENSOR_CORES).
    """
    card, code = _card_and_code(device)
    if code < FIRST_TF32:
        return min(card, code)
    return card if tensor_core_refusal(device) is None else _WITHOUT_TF32


def _card_and_code(device: torch.device) -> tuple[tuple[int, int], tuple[int, int]]:
    told = library(device).device_info(_NONE) if device.type == "cpu" else device_info(ordinal(device))
    return divmod(told["arch"], 10), divmod(told["code"], 10)


def tensor_core_refusal(device: torch.device) -> str | None:
    """Why tf32x3 is not taken on a device although the code that runs there has it; None: it is, or has none."""
    return TENSOR_CORES.refusal(device) if _card_and_code(device)[1] >= FIRST_TF32 else None


def half_refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why float16 or bfloat16 rows are not multiplied as they are, although the code that runs there can; None: they
    are, or it cannot."""
    return HALF_CORES[dtype].refusal(device) if _card_and_code(device)[1] >= FIRST_HALF else None


def takes_halves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether rows of this type are multiplied as they are."""
    return _card_and_code(device)[1] >= FIRST_HALF and half_refusal(device, dtype) is None


def _ask(asked: Questions, device: torch.device) -> Tensor:
    """Answers by mma.sync."""
    x, y, start = (t.to(device) for t in (asked.x, asked.y, asked.start))
    out = torch.empty_like(start)
    addresses = (t.data_ptr() for t in (x, y, start, out))
    with on_device(device):
        library(device).tensor_core_products(
            *addresses, len(asked.kinds), asked.numbers.name, device=ordinal(device), stream=stream(device)
        )
        return out.cpu()


TENSOR_CORES = Probe("the CUDA backend", (16, 8, 8), _ask)
HALF_CORES = {numbers.dtype: Probe("the CUDA backend", (16, 8, 16), _ask, numbers) for numbers in (FLOAT16, BFLOAT16)}


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
