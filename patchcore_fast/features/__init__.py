"""Photographs to patch features: a frozen timm backbone, then neighbourhood averaging and layer fusion."""

from __future__ import annotations

from patchcore_fast.features.backbone import Backbone
from patchcore_fast.features.patchify import FeatureExtractor, PatchFeatures

__all__ = ["Backbone", "FeatureExtractor", "PatchFeatures"]
