"""Cells that run in this process, of methods that take no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from patchcore_fast.comparison import models

from ..compared import Fake, cells_here
from ..pictures import write_mvtec

SHARED: dict[str, Any] = {"backbone": "test_resnet", "layers": (1, 2), "weights": "random", "image_size": 64,
                          "device": "cpu"}  # fmt: skip


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Cells run in this process, and their jobs are told here."""
    found: list[Mapping[str, Any]] = []
    cells_here(monkeypatch.setattr, found)
    return found


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Every method is `Fake`, or what this is given."""

    def put(kind: Any) -> None:
        monkeypatch.setattr(models, "make_model", kind)

    put(Fake)
    return put


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets, only to be read."""
    top = tmp_path_factory.mktemp("comparison") / "root"
    for name in ("bolt", "nut"):
        write_mvtec(top / name, train=3, good=2, bad=2)
    return top
