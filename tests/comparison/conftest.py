"""Cells that run in this process, of methods that take no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("timm", reason="the extra pipeline is not installed")

from patchcore_fast.comparison import models, run, worker
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageSet

from ..pictures import write_mvtec

SHARED: dict[str, Any] = {"backbone": "test_resnet", "layers": (1, 2), "weights": "random", "image_size": 64,
                          "device": "cpu"}  # fmt: skip


class Fake:
    """A method whose numbers follow from its name and its seed alone."""

    notes = ("made up",)
    unreadable = False

    def __init__(self, method: str, settings: Mapping[str, Any]) -> None:
        own = {name: settings[name] for name in ("features", "running")}
        self.config, self.device = PatchCoreConfig.from_dict(own), torch.device("cpu")
        self.value = (len(method) + settings["selection"]["seed"]) / 100
        self.unread_: list[tuple[Path, str]] = []

    def fit(self, images: ImageSet, on_error: str) -> None:
        assert on_error == "return"
        self.unread_ = [(images.train[0].path, "is no image")] if self.unreadable else []

    def predict(self, image: torch.Tensor) -> None:
        assert image.shape == (1, 3, 64, 64)

    def evaluate(self, images: ImageSet, on_error: str) -> Any:
        rows = [{"path": r.path.name, "label": r.label, "error": None} for r in images.test]
        metrics = {"image_auroc": self.value, "aupro": None, "threshold": 3.0}
        return SimpleNamespace(to_dict=lambda: {"metrics": metrics}, images=rows, unread=[])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Cells run in this process, and are told here as (set, method, seed)."""
    found: list[tuple[str, str, int]] = []

    def start(job: Mapping[str, Any]) -> str:
        found.append((Path(job["folder"]).name, job["method"], job["settings"]["selection"]["seed"]))
        worker.work(job)
        return ""

    monkeypatch.setattr(run, "start", start)
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
