"""The registered backends, in the order in which `auto` tries them; a new backend is one file and one line here."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from .base import Backend, KCenterJob, KCenterLeaves
from .native_backend import NATIVE
from .torch_backend import TORCH
from .triton_backend import TRITON

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendStatus",
    "KCenterJob",
    "KCenterLeaves",
    "choose_backend",
    "explain_backends",
]

BACKENDS: tuple[Backend, ...] = (NATIVE, TRITON, TORCH)
_log = logging.getLogger("patchcore_fast.kernels")


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run on a device of this machine, and why not."""

    backend: str
    device: str
    available: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.backend:<8} {self.device:<8} {'yes' if self.available else 'no':<4} {self.reason}"


def choose_backend(name: str, backend: str, device: torch.device) -> Backend:
    """The backend for a call: the named one, or for "auto" the first that can run on the device.

    Raises
    ------
    ValueError : no backend of that name, or it cannot run on the device; the message gives the reason.
    """
    if not isinstance(backend, str):
        raise TypeError(f"{name}: backend must be a string, got {type(backend).__name__}")
    known = {b.name: b for b in BACKENDS}
    if backend == "auto":
        for candidate in BACKENDS:
            reason = candidate.refuse(device)
            if reason is None and candidate.automatic(device):
                return candidate
            reason = reason or candidate.about()
            _log.debug("%s: not %s on %s: %s", name, candidate.name, device, reason)
        raise ValueError(f"{name}: no backend runs on {device}; explain_backends() gives the reasons")
    if backend not in known:
        raise ValueError(f"{name}: backend must be one of {', '.join(['auto', *known])}, got {backend!r}")
    reason = known[backend].refuse(device)
    if reason is not None:
        raise ValueError(f"{name}: backend {backend!r} cannot run on {device}: {reason}")
    return known[backend]


def explain_backends() -> list[BackendStatus]:
    """Which backends can run on which devices of this machine, and why not."""
    devices = ["cpu", "cuda"]
    if torch.cuda.device_count() > 1:
        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    rows = []
    for backend in BACKENDS:
        for device in devices:
            reason = backend.refuse(torch.device(device))
            rows.append(BackendStatus(backend.name, device, reason is None, reason or backend.about()))
    return rows
