"""PatchCore from a folder of photographs to heat maps: fit, predict, evaluate, save, load."""

from __future__ import annotations

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.model.patchcore import PatchCore
from patchcore_fast.model.results import Evaluation, Prediction

__all__ = ["Evaluation", "PatchCore", "PatchCoreConfig", "Prediction"]
