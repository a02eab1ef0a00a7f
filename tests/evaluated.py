"""A small evaluation on disk, as `evaluate --output` writes it, for the tests of what reads it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from patchcore_fast.cli import main
from patchcore_fast.model import PatchCoreConfig

from .pictures import write_mvtec

TINY = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "64", "--ratio", "0.1"]


def tiny_config(**changes: Any) -> PatchCoreConfig:
    base: dict[str, Any] = {
        "backbone": "test_efficientnet", "layers": (1, 2), "weights": "random", "image_size": 64, "ratio": 0.1,
        "sigma": 2.0, "batch_size": 4,
    }  # fmt: skip
    return PatchCoreConfig(**(base | changes))


def evaluate(root: Path, **counts: int) -> Path:
    """Write root/weave, evaluate on it, and return the output folder root/out."""
    data = write_mvtec(root / "weave", **counts)
    assert main(["evaluate", str(data), "--output", str(root / "out"), *TINY]) == 0
    return root / "out"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def files(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def predict(place: Path, images: Any, out: Path, *more: str) -> int:
    return main(["predict", str(place / "bank.safetensors"), str(images), "--output", str(out), *more])
