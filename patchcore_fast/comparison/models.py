"""From a method's name and settings to something that fits, predicts and evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patchcore_fast.comparison.plan import BANKS, FOREIGN
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.methods import MethodConfig


def make_model(method: str, settings: Mapping[str, Any]) -> Any:
    """A model with fit, predict, evaluate, config, device and unread_, as PatchCore has them.

    settings : as `plan.Entry.seeded` gives them.
    """
    if method.startswith(FOREIGN):
        from patchcore_fast.comparison.foreign import AnomalibModel

        own = {name: group for name, group in settings.items() if name != "anomalib"}
        return AnomalibModel(
            method.removeprefix(FOREIGN), PatchCoreConfig.from_dict(own), settings["anomalib"]["epochs"]
        )
    if method in BANKS:
        from patchcore_fast.model import PatchCore

        return PatchCore(PatchCoreConfig.from_dict(settings), progress=False)
    from patchcore_fast.methods import make_method

    return make_method(method, MethodConfig.from_dict(settings), progress=False)
