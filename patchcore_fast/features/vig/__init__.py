"""Vision GNN (Han et al., NeurIPS 2022), isotropic and pyramid, as a source of features with the user's weights."""

from __future__ import annotations

from patchcore_fast.features.vig.shapes import SHAPES, Shape
from patchcore_fast.features.vig.source import VisionGNN

__all__ = ["SHAPES", "Shape", "VisionGNN"]
