"""The emulated kernels, for every test that asks for them. Uninitialised memory is poison here too."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from ..kernels.conftest import backend, plans, poisoned_empty, rescued, room  # noqa: F401
from ..kernels.engines import ASKED
from . import emulated as emulation
from .kcenter_runs import ON_CARD
from .knn_runs import pieces  # noqa: F401


@pytest.fixture(scope="session")
def emulated_file() -> str:
    """The emulated module's file. Where it cannot be built for want of a tool the test is skipped; a compiler that
    fails is an error."""
    if ON_CARD in ASKED:
        pytest.skip("a card was asked for, this is the emulator's")
    if reason := emulation.missing():
        pytest.skip(reason)
    return str(emulation.build())


@pytest.fixture
def emulated(emulated_file, monkeypatch) -> ModuleType:
    """The emulated kernels, which backend "cuda" then runs CPU tensors on."""
    from patchcore_fast.kernels.backends.cuda_kernels.library import library

    monkeypatch.setenv(emulation.VARIABLE, emulated_file)
    return library(torch.device("cpu"))


@pytest.fixture
def every_seed(monkeypatch):
    """Seeds to run a test under: the order of blocks and threads is another each time."""

    def seeds(count=8):
        for seed in range(count):
            monkeypatch.setenv("PATCHCORE_FAST_CUDA_SEED", str(seed))
            yield seed

    return seeds
