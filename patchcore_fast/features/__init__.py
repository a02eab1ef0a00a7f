"""Photographs to patch features: a frozen network, then neighbourhood averaging and layer fusion."""

from __future__ import annotations

from patchcore_fast.features.backbone import Backbone
from patchcore_fast.features.learned import LinearReduction, Moments
from patchcore_fast.features.modules import ModuleSource
from patchcore_fast.features.patchify import FeatureExtractor, PatchFeatures
from patchcore_fast.features.source import FeatureSource
from patchcore_fast.features.tiles import TiledExtractor

__all__ = [
    "Backbone",
    "FeatureExtractor",
    "FeatureSource",
    "LinearReduction",
    "ModuleSource",
    "Moments",
    "PatchFeatures",
    "TiledExtractor",
]
