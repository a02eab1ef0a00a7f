"""The settings of a PatchCore model, in six groups; nothing here imports torch, so that they are checked first.

A new setting is one field of its group (`base.setting`): the check, the option of the command line, the key in TOML and
in the bank file follow from it.
"""

from __future__ import annotations

from patchcore_fast.config.decision import DecisionSettings
from patchcore_fast.config.features import FeatureSettings
from patchcore_fast.config.patchcore import PatchCoreConfig
from patchcore_fast.config.presets import PRESETS
from patchcore_fast.config.record import GROUP_OF, GROUPS, current, flat, grouped, recorded
from patchcore_fast.config.running import RunningSettings
from patchcore_fast.config.scoring import RESCORED, SCORERS, ScoringSettings, top_share
from patchcore_fast.config.search import INDEXES, SearchSettings
from patchcore_fast.config.selection import SAMPLERS, SelectionSettings

__all__ = [
    "GROUPS",
    "GROUP_OF",
    "INDEXES",
    "PRESETS",
    "RESCORED",
    "SAMPLERS",
    "SCORERS",
    "DecisionSettings",
    "FeatureSettings",
    "PatchCoreConfig",
    "RunningSettings",
    "ScoringSettings",
    "SearchSettings",
    "SelectionSettings",
    "current",
    "flat",
    "grouped",
    "recorded",
    "top_share",
]
