"""The Triton kernels as a backend. triton is imported with the first call that runs on it, never before."""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from ..together import Together
from ..tuning import Budget
from .base import Backend, KCenterJob, KCenterLeaves, ShardLeaves
from .device.plan import MOST_NEIGHBOURS
from .device.shard import shard_of
from .torch_backend import TORCH

_log = logging.getLogger("patchcore_fast.kernels")
_OLDEST, _DISTRIBUTIONS = (3, 3), ("triton", "pytorch-triton", "triton-windows")
_LEAST_CAPABILITY = (7, 5)


def _interpreted() -> bool:
    # Only where triton is installed: the module says how it reads the environment.
    from .triton_kernels.launch import interpreted

    return interpreted()


@functools.cache
def _missing() -> str | None:
    """Why triton cannot be imported here, or is too old. Asked once: the answer is read from files."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    for name in _DISTRIBUTIONS:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2])
        return f"triton {found} is installed, 3.3 or later is wanted" if numbers < _OLDEST else None
    return None  # built from source: its version shows only when it is imported


def _refuse(device: torch.device) -> str | None:
    if (reason := _missing()) is not None:
        return reason
    if device.type == "cpu":
        return None if _interpreted() else "Triton kernels run on CUDA devices"
    if device.type != "cuda":
        return f"Triton kernels run on CUDA devices, not on {device.type}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if torch.version.hip is not None:
        return "these kernels have not been made for ROCm"
    found = torch.cuda.get_device_capability(device)
    if found < _LEAST_CAPABILITY:
        return f"compute capability {found[0]}.{found[1]}, 7.5 or later is wanted"
    return None


def _automatic(device: torch.device) -> bool:
    return device.type == "cuda" and not _interpreted()


def _k_center(job: KCenterJob) -> KCenterLeaves:
    from .triton_kernels.kcenter import TritonKCenter

    return TritonKCenter(job)


def _shard(job: KCenterJob, together: Together) -> ShardLeaves | None:
    from .triton_kernels.frame import look
    from .triton_kernels.kcenter import TritonKCenter

    return shard_of(TritonKCenter, look, job, together)


def _knn(query: Tensor, bank: Tensor, k: int, budget: Budget) -> tuple[Tensor, Tensor]:
    from .triton_kernels.knn import knn

    if k <= MOST_NEIGHBOURS:
        return knn(query, bank, k, budget)
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        raise ValueError(f"knn: while a CUDA graph is captured, k may be at most {MOST_NEIGHBOURS}, got {k}")
    _log.debug("knn: k = %d is more than the Triton kernels keep (%d): on torch's matrix products", k, MOST_NEIGHBOURS)
    return TORCH.knn(query, bank, k, budget)


def _about() -> str:
    return "Triton's interpreter: for tests, never chosen by itself" if _interpreted() else "Triton"


def _remark(device: torch.device) -> str:
    # What is known: asking would compile a kernel.
    probe = sys.modules.get(f"{__package__}.triton_kernels.probe")
    probes = [probe.TENSOR_CORES, *probe.HALF_CORES.values()] if probe else []
    known = {p.numbers.taken: p.known(device)[1] for p in probes}
    return "; ".join(f"{taken} is not taken: {reason}" for taken, reason in known.items() if reason)


TRITON = Backend("triton", _refuse, _k_center, _shard, _knn, _about, _automatic, remark=_remark)
