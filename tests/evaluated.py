"""A small evaluation on disk, as `evaluate --output` writes it, for the tests of what reads it."""

from __future__ import annotations

from pathlib import Path

from patchcore_fast.cli import main

from .pictures import write_mvtec

TINY = ["--backbone", "test_resnet", "--layers", "1,2", "--weights", "random", "--image-size", "64", "--ratio", "0.1"]


def evaluate(root: Path, **counts: int) -> Path:
    """Write root/weave, evaluate on it, and return the output folder root/out."""
    data = write_mvtec(root / "weave", **counts)
    assert main(["evaluate", str(data), "--output", str(root / "out"), *TINY]) == 0
    return root / "out"
