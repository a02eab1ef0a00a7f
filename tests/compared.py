"""Cells of compare without a process each, and a method that takes no time, for the tests of what surrounds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageSet


def cells_here(put: Callable[[Any, str, Any], None], seen: list[Mapping[str, Any]] | None = None) -> None:
    """Let compare measure in the process that it runs in: one of its own for each cell is seconds of imports.

    put : setattr, or that of a MonkeyPatch.  seen : takes the jobs.
    """
    from patchcore_fast.comparison import run, worker

    def start(job: Mapping[str, Any]) -> str:
        if seen is not None:
            seen.append(job)
        worker.work(job)
        return ""

    put(run, "start", start)


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
