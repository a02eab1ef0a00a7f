"""A fitted model as a file that runs without this package: torch.export (.pt2), ONNX (.onnx) or OpenVINO (.xml)."""

from __future__ import annotations

from patchcore_fast.export.check import PRECISIONS, TOLERANCE, TOLERANCES, Difference
from patchcore_fast.export.formats import FACTS, SUFFIXES
from patchcore_fast.export.module import ExportedPatchCore
from patchcore_fast.export.programs import export_model, exported_size
from patchcore_fast.export.running import ExportedModel, is_exported

__all__ = [
    "FACTS",
    "PRECISIONS",
    "SUFFIXES",
    "TOLERANCE",
    "TOLERANCES",
    "Difference",
    "ExportedModel",
    "ExportedPatchCore",
    "export_model",
    "exported_size",
    "is_exported",
]
