"""Uninitialised memory is poison here too; a card that nobody has measured; an interpreter that looks up less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..kernels.conftest import backend, plans, poisoned_empty, rescued, room  # noqa: F401
from .interpreter import quicken

quicken()

GPU, CARD = "Imaginary 1000", (8, 6)


@pytest.fixture
def card(monkeypatch, tmp_path) -> Path:
    """A machine with a card that nobody has measured; gives the cache folder."""
    from patchcore_fast.kernels.backends.triton_kernels import tiles

    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PATCHCORE_FAST_AUTOTUNE", raising=False)
    monkeypatch.setattr(tiles, "_gpu", lambda capability: GPU if capability == CARD else None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    tiles.forget()
    yield tmp_path / "cache"
    tiles.forget()


@pytest.fixture
def small_tiles(monkeypatch):
    """Several tiles along every side even of tiny matrices."""
    from patchcore_fast.kernels.backends.triton_kernels import knn

    from .knn_helpers import SMALL

    monkeypatch.setattr(knn, "choose_tile", lambda *shape: SMALL)
