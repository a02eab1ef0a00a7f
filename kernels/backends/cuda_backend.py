"""The CUDA C++ kernels (csrc/cuda) as a backend: compiled beforehand, they need neither Triton nor a compiler."""

from __future__ import annotations

import dataclasses
import logging

import torch
from torch import Tensor

from ..together import Together
from ..tuning import Budget
from .base import Backend, KCenterJob, KCenterLeaves, ShardLeaves
from .cuda_kernels import library
from .device.launch import on_device
from .device.plan import MOST_NEIGHBOURS
from .device.shard import shard_of
from .native_rows import addressable
from .torch_backend import TORCH

_log = logging.getLogger("patchcore_fast.kernels")
_LEAST_CAPABILITY = (7, 5)


def _refuse(device: torch.device) -> str | None:
    if device.type not in ("cpu", "cuda"):
        return f"CUDA kernels run on CUDA devices, not on {device.type}"
    reason = library.refusal(device)
    if reason is not None or device.type == "cpu":
        return reason
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if torch.version.hip is not None:
        return "these kernels have not been made for ROCm"
    found = torch.cuda.get_device_capability(device)
    if found < _LEAST_CAPABILITY:
        return f"compute capability {found[0]}.{found[1]}, 7.5 or later is wanted"
    try:
        with on_device(device):  # torch's guard wakes no card but this one
            told = library.device_info(library.ordinal(device))
    except RuntimeError as e:  # a driver older than the runtime inside the module cannot even be asked
        return str(e)
    return None if told["runnable"] else told["reason"]


def _tailored(device: torch.device) -> bool:
    # Code of a generation runs on all its cards; what a driver translates from an older one lacks what is new.
    told = library.device_info(library.ordinal(device))
    return told["code"] // 10 == told["arch"] // 10


def _k_center(job: KCenterJob) -> KCenterLeaves:
    from .cuda_kernels.kcenter import CudaKCenter

    return CudaKCenter(dataclasses.replace(job, features=addressable(job.features)))


def _shard(job: KCenterJob, together: Together) -> ShardLeaves | None:
    from .cuda_kernels.frame import look
    from .cuda_kernels.kcenter import CudaKCenter

    return shard_of(CudaKCenter, look, dataclasses.replace(job, features=addressable(job.features)), together)


def _knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    from .cuda_kernels.knn import knn

    if k <= MOST_NEIGHBOURS:
        return knn(query, bank, k, budget)
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        raise ValueError(f"knn: while a CUDA graph is captured, k may be at most {MOST_NEIGHBOURS}, got {k}")
    _log.debug("knn: k = %d is more than the CUDA kernels keep (%d): on torch's matrix products", k, MOST_NEIGHBOURS)
    return TORCH.knn(query, bank, k, budget)


def _about() -> str:
    said = "CUDA C++, compiled beforehand"
    return f"{said}; on the CPU an emulator: for tests, never chosen by itself" if library.emulated() else said


def _remark(device: torch.device) -> str:
    reasons = {library.TENSOR_CORES.numbers: library.tensor_core_refusal(device)}
    reasons |= {probe.numbers: library.half_refusal(device, dtype) for dtype, probe in library.HALF_CORES.items()}
    return "; ".join(f"{numbers.taken} is not taken: {reason}" for numbers, reason in reasons.items() if reason)


CUDA = Backend(
    "cuda", _refuse, _k_center, _shard, _knn, _about, lambda device: device.type == "cuda", _tailored, _remark
)
