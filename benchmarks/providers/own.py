"""Our engine as providers: what `backend="auto"` takes, the torch leaves, and the native leaves held to one
instruction set. Each provider has a process of its own, so PATCHCORE_FAST_ISA, set there, holds for it alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from patchcore_fast.kernels import explain_backends
from patchcore_fast.kernels.backends.native_library import native, native_refusal

from . import Provider, backend_missing, cpu_only

PREFIX = "patchcore_fast"
ISAS = ("portable", "avx2", "avx512f", "avx512", "amx")  # as csrc/cpu/isa.h; ascending
Make = Callable[..., Callable[[dict[str, Any], str, int], Any]]


def own_providers(call: str, make: Make, **variants: dict[str, Any]) -> list[Provider]:
    """Ours, fastest first.

    call : as a user writes it, without the backend.
    make : (backend, **settings) -> what opens features with it.
    variants : name -> settings; the native leaves once more with these.

    Only "auto" and torch run when nobody asks. The others are optional: "native-avx2" and so on; with " x1" on one
    thread; with the name of a variant.
    """
    found = [
        Provider(PREFIX, "ours", f"{call}; the backend is chosen for the machine", make("auto")),
        Provider(f"{PREFIX} torch", "ours torch", f'{call}, backend="torch"', make("torch"),
                 missing=backend_missing("torch")),
    ]  # fmt: skip
    for b in dict.fromkeys(s.backend for s in explain_backends()):
        if b != "torch":
            found.append(Provider(f"{PREFIX} {b}", f"ours {b}", f'{call}, backend="{b}"', make(b),
                                  missing=backend_missing(b), optional=True))  # fmt: skip
    for isa in ISAS:
        for suffix, threads, settings in (("", 0, {}), (" x1", 1, {}), *((f" {v}", 0, s) for v, s in variants.items())):
            about = f"the native leaves on {isa}{' and one thread' * (threads == 1)}"
            said = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            found.append(Provider(forced(isa, suffix), f"ours native-{isa}{suffix}", about + (said and f"; {said}"),
                                  _held(make("native", **settings), isa, threads), missing=_isa_missing(isa),
                                  optional=True))  # fmt: skip
    return found


def forced(isa: str, suffix: str = "") -> str:
    """The name of a provider."""
    return f"{PREFIX} native-{isa}{suffix}"


def isas_here() -> list[str]:
    """The instruction sets that run here, ascending; none without the native module."""
    if native_refusal():
        return []
    return [isa for isa, refusal in native().explain_isa() if not refusal]


def chosen_backend(device: str) -> str:
    """What "auto" takes, in words."""
    kind = device.split(":")[0]
    here = (s for s in explain_backends() if s.available and s.device.split(":")[0] == kind)
    return next(f"{s.backend}: {s.reason}" for s in here)


def _isa_missing(isa: str) -> Callable[[str], str | None]:
    def missing(device: str) -> str | None:
        if reason := native_refusal():
            return reason
        return dict(native().explain_isa()).get(isa, "not known to this build") or None

    return cpu_only(missing)


def _held(make: Callable[[dict[str, Any], str, int], Any], isa: str, threads: int) -> Callable[..., Any]:
    def opened(arrays: dict[str, Any], device: str, seed: int) -> Any:
        os.environ["PATCHCORE_FAST_ISA"] = isa
        if threads:
            torch.set_num_threads(threads)
        if native().isa() != isa:
            raise RuntimeError(f"{isa} was asked for, {native().isa()} would run")
        return make(arrays, device, seed)

    return opened
