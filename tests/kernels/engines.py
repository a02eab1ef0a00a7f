"""What the suites of this folder run on: every backend, the native one with each instruction set that runs here.

PATCHCORE_FAST_TEST_ENGINES="cuda-cuda torch-cuda" (backend-device) takes these in their place, whether they run here
or not: what is missing fails then, and is not left out. benchmarks/gpu/parts.py names them so; .ci/run takes "torch
native", the latter with the instruction set that it chooses itself, where the torch is another and the engine is not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from patchcore_fast.kernels.backends import BACKENDS as REGISTERED
from patchcore_fast.kernels.backends.native_library import native, native_refusal

VARIABLE = "PATCHCORE_FAST_ISA"
T = TypeVar("T")


@dataclass(frozen=True)
class Engine:
    """A backend on a device; `isa` is what the native one is made to take, empty for the others."""

    backend: str
    device: str = "cpu"
    isa: str = ""

    def __str__(self) -> str:
        return "-".join(part for part in (self.backend, self.isa, self.device if self.device != "cpu" else "") if part)

    @contextmanager
    def forced(self) -> Iterator[Engine]:
        """Calls inside take this engine's instruction set."""
        before = os.environ.pop(VARIABLE, None)
        if self.isa:
            os.environ[VARIABLE] = self.isa
        try:
            yield self
        finally:
            os.environ.pop(VARIABLE, None)
            if before is not None:
                os.environ[VARIABLE] = before


def backend_refusal(name: str, device: str) -> str | None:
    """Why a backend cannot run on a device."""
    return next(b for b in REGISTERED if b.name == name).refuse(torch.device(device))


ISAS = [] if native_refusal() else [name for name, reason in native().explain_isa() if not reason]
ASKED = [Engine(*word.split("-")) for word in os.environ.get("PATCHCORE_FAST_TEST_ENGINES", "").split()]
NATIVE = [e for e in ASKED if e.backend == "native"] if ASKED else [Engine("native", isa=isa) for isa in ISAS]
CUDA = [Engine(name, "cuda") for name in ("triton", "cuda", "torch") if not backend_refusal(name, "cuda")]
ENGINES = ASKED or [Engine("torch"), *CUDA, *NATIVE]
BACKENDS = ["torch", *(["native"] if NATIVE else [])]

_answers: dict[tuple, object] = {}


def once(key: tuple, compute: Callable[[], T]) -> T:
    """The reference's answer to a case: it is slow, and the same for every engine."""
    if key not in _answers:
        _answers[key] = compute()
    return _answers[key]  # type: ignore[return-value]
