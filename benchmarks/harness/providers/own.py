"""Our engine as providers: what `backend="auto"` takes, the torch leaves, the native leaves held to one instruction
set, the GPU leaves in each arithmetic. Each provider has a process of its own, so what is forced holds for it alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch

from patchcore_fast.kernels import explain_backends
from patchcore_fast.kernels.backends import choose_backend
from patchcore_fast.kernels.backends.native_library import native, native_refusal

from . import Provider, backend_missing, cpu_only

PREFIX = "patchcore_fast"
ISAS = ("portable", "avx2", "avx512f", "avx512", "amx")  # as csrc/cpu/isa.h; ascending
Make = Callable[..., Callable[[dict[str, Any], str, int], Any]]
# What arithmetic without a certificate may be off by: by what it is judged -> precision -> tolerance. The radius: 1 %,
# as the design promises. Operands rounded by r, 2^-11 or 2^-9 (cut off: twice that), move a squared distance by
# r (|x| + |y|)^2, and two are compared. Rarity has no promise: these catch what is plainly wrong.
REDUCED = {
    "radius": {"tf32": 0.01, "bf16": 0.01},
    "slack": {"tf32": 2**-9, "bf16": 2**-7},
    "values": {"tf32": 0.05, "bf16": 0.2},
}
BOUNDED = 512 << 20  # bytes, for the variant with a memory limit


def own_providers(call: str, make: Make, judged: str, triton: dict[str, dict[str, Any]] | None = None,
                  **variants: dict[str, Any]) -> list[Provider]:  # fmt: skip
    """Ours, fastest first.

    call : as a user writes it, without the backend.
    make : (backend, tuning, **arguments) -> what opens features with it.
    judged : how arithmetic without a certificate is, see REDUCED.
    triton : name -> arguments of `make`; the GPU leaves once more with these.
    variants : name -> tuning; the native leaves once more with these.

    Only "auto" and torch run when nobody asks. The others are optional: "native-avx2" and so on; with " x1" on one
    thread; with the name of a variant; "triton", "triton ieee" and so on; "cuda", "cuda ieee" and so on.
    """
    found = [
        Provider(PREFIX, "ours", f"{call}; the backend is chosen for the machine", make("auto")),
        Provider(f"{PREFIX} torch", "ours torch", f'{call}, backend="torch"', make("torch"),
                 missing=backend_missing("torch")),
    ]  # fmt: skip
    for b in dict.fromkeys([*(s.backend for s in explain_backends()), "triton", "cuda"]):
        if b != "torch":
            found.append(Provider(f"{PREFIX} {b}", f"ours {b}", f'{call}, backend="{b}"', make(b),
                                  missing=backend_missing(b), optional=True))  # fmt: skip
    for isa in ISAS:
        for suffix, threads, settings in (("", 0, {}), (" x1", 1, {}), *((f" {v}", 0, s) for v, s in variants.items())):
            about = f"the native leaves on {isa}{' and one thread' * (threads == 1)}"
            said = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            found.append(Provider(forced(isa, suffix), f"ours native-{isa}{suffix}", about + (said and f"; {said}"),
                                  _held(make("native", settings), isa, threads), missing=_isa_missing(isa),
                                  optional=True))  # fmt: skip
    more = triton or {}
    reduced = REDUCED[judged].items()
    return found + _device("triton", call, make, judged, more, reduced) + _device("cuda", call, make, judged, more)


def _device(backend: str, call: str, make: Make, judged: str, more: dict[str, dict[str, Any]],
            reduced: Iterable[tuple[str, float]] = ()) -> list[Provider]:  # fmt: skip
    """GPU leaves in each certified arithmetic, in those without a certificate, and with settings."""

    def provider(name: str, family: str, about: str, opened: Callable[..., Any], **rest: Any) -> Provider:
        name, about = f"{PREFIX} {backend} {name}", f'{call}, backend="{backend}", {about}'
        return Provider(name, family, about, opened, missing=backend_missing(backend), optional=True, **rest)

    found = [
        provider(mode, f"ours {backend} {mode}", f"products in {mode}", make(backend, precision=mode))
        for mode in ("ieee", "tf32x3")
    ]
    for precision, tolerance in reduced:
        about = f'precision="{precision}": not exact, judged by its {judged}'
        made = make(backend, precision=precision)
        found.append(provider(precision, f"reduced {precision}", about, made, judged=judged, tolerance=tolerance))
    for name, settings in {"512 MB": {"memory_limit": BOUNDED}, **more}.items():
        about = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        found.append(provider(name, f"ours {backend} {name}", about, make(backend, **settings)))
    return found


def forced(isa: str, suffix: str = "") -> str:
    """The name of a provider."""
    return f"{PREFIX} native-{isa}{suffix}"


def isas_here() -> list[str]:
    """The instruction sets that run here, ascending; none without the native module."""
    if native_refusal():
        return []
    return [isa for isa, refusal in native().explain_isa() if not refusal]


def chosen_backend(device: str, part: str = "kcenter") -> str:
    """What "auto" takes for a part of choice.CALLS, in words."""
    taken = choose_backend("benchmark", "auto", torch.device(device), part)
    return f"{taken.name}: {taken.about()}"


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
