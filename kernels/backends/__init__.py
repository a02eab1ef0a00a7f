"""The registered backends, in the order in which `auto` tries them; a new backend is one file and one line here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .base import Backend, KCenterJob, KCenterLeaves
from .choice import CALLS, choose
from .cuda_backend import CUDA
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

BACKENDS: tuple[Backend, ...] = (NATIVE, CUDA, TRITON, TORCH)
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


def choose_backend(name: str, backend: str, device: torch.device, part: str = "kcenter") -> Backend:
    """The backend for a call: the named one, or for "auto" one that can run on the device.

    That is the first of BACKENDS, but between two kinds of GPU kernels the one that choice.py finds.

    Parameters
    ----------
    name : public function, for the error message.
    part : what will be asked of it, a key of choice.CALLS.

    Raises
    ------
    ValueError : no backend of that name, or it cannot run on the device; the message gives the reason.
    """
    if not isinstance(backend, str):
        raise TypeError(f"{name}: backend must be a string, got {type(backend).__name__}")
    known = {b.name: b for b in BACKENDS}
    if backend == "auto":
        able = list(_able(name, device))
        if not able:
            raise ValueError(f"{name}: no backend runs on {device}; explain_backends() gives the reasons")
        taken, why = choose(part, able, device)
        _log.debug("%s: %s on %s: %s", name, taken.name, device, why)
        return taken
    if backend not in known:
        raise ValueError(f"{name}: backend must be one of {', '.join(['auto', *known])}, got {backend!r}")
    reason = known[backend].refuse(device)
    if reason is not None:
        raise ValueError(f"{name}: backend {backend!r} cannot run on {device}: {reason}")
    return known[backend]


def _able(name: str, device: torch.device) -> Iterator[Backend]:
    """The backends that "auto" may take on a device, in order; reasons against the others are logged."""
    for candidate in BACKENDS:
        reason = candidate.refuse(device)
        if reason is None and candidate.automatic(device):
            yield candidate
            if device.type != "cuda":  # no choice is left, and asking the others takes time
                return
        else:
            _log.debug("%s: not %s on %s: %s", name, candidate.name, device, reason or candidate.about())


def explain_backends() -> list[BackendStatus]:
    """Which backends can run on which devices of this machine, and why not; which one "auto" takes where, and why."""
    devices = ["cpu", "cuda"]
    if torch.cuda.device_count() > 1:
        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    rows = []
    for backend in BACKENDS:
        for device in devices:
            reason = backend.refuse(torch.device(device))
            said = reason or "; ".join(filter(None, (backend.about(), backend.remark(torch.device(device)))))
            if reason is None and backend.automatic(torch.device(device)):
                said += _taken_for(backend, torch.device(device))
            rows.append(BackendStatus(backend.name, device, reason is None, said))
    return rows


def _taken_for(backend: Backend, device: torch.device) -> str:
    """What "auto" takes a backend for, where there is a choice between GPU kernels."""
    if device.type != "cuda":
        return ""
    able = list(_able("explain_backends", device))
    chosen = {CALLS[part]: choose(part, able, device) for part in CALLS}
    reasons = dict.fromkeys(why for taken, why in chosen.values() if taken is backend)
    calls = [call for call, (taken, _) in chosen.items() if taken is backend]
    return f"; auto takes it for {' and '.join(calls)}: {'; '.join(reasons)}" if calls else ""
