"""A fitted model as one file that runs without this package: torch.export (.pt2) or ONNX (.onnx)."""

from __future__ import annotations

from patchcore_fast.export.check import TOLERANCE, Difference
from patchcore_fast.export.module import ExportedPatchCore
from patchcore_fast.export.programs import FACTS, SUFFIXES, export_model, exported_size

__all__ = ["FACTS", "SUFFIXES", "TOLERANCE", "Difference", "ExportedPatchCore", "export_model", "exported_size"]
