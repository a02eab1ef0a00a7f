"""Settings as plain dicts, as files keep them: by group; those of earlier versions, which had no groups, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patchcore_fast.config.base import Settings, settings_of
from patchcore_fast.config.decision import DecisionSettings
from patchcore_fast.config.features import FeatureSettings
from patchcore_fast.config.running import RunningSettings
from patchcore_fast.config.scoring import ScoringSettings
from patchcore_fast.config.search import SearchSettings
from patchcore_fast.config.selection import SIZES, SelectionSettings

_KINDS = (FeatureSettings, SelectionSettings, SearchSettings, ScoringSettings, DecisionSettings, RunningSettings)
GROUPS: dict[str, type[Settings]] = {kind.group: kind for kind in _KINDS}
GROUP_OF = {f.name: name for name, kind in GROUPS.items() for f in settings_of(kind)}  # no name is in two groups
OLD_NAMES = {"score": "image_score"}


def current(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings with the names of today: `score` was `image_score`, and the scorer "reweighted" was both."""
    found = {OLD_NAMES.get(name, name): value for name, value in flat.items()}
    if found.get("scorer") == "reweighted":
        found |= {"scorer": "distance", "image_score": "reweighted"}
    quantile = found.get("threshold_quantile")
    if isinstance(quantile, int | float) and "max_false_alarms" not in found:  # there 1 meant the largest score
        found["max_false_alarms"] = max(1 - found.pop("threshold_quantile"), 0.001)
    return found


def grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by group, of a dict with or without groups; nothing is checked, and what is not known stays as it is.

    A setting beside the groups goes into its group, over what was there.
    """
    found: dict[str, Any] = {}
    flat = current({name: value for name, value in values.items() if name not in GROUPS})
    for name, value in values.items():
        if name in GROUPS:
            found[name] = dict(value) if isinstance(value, Mapping) else value
    for name, value in flat.items():
        group = GROUP_OF.get(name)
        if group is None or not isinstance(found.setdefault(group, {}), dict):
            found[name] = value
        else:
            found[group][name] = value
    return found


def laid(beneath: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name with others laid over them.

    What those above give in another way goes: the size of the bank (ratio, budget or count), and options of another
    sampler. Options of the same sampler are laid over each other one by one.
    """
    gone = set(SIZES) if any(above.get(name) is not None for name in SIZES) else set()
    options = [values.get("sampler_options") for values in (beneath, above)]
    if above.get("sampler", beneath.get("sampler")) != beneath.get("sampler"):
        gone.add("sampler_options")
    elif all(isinstance(given, Mapping) for given in options):
        above = {**above, "sampler_options": {**options[0], **options[1]}}  # type: ignore[dict-item]
    return {name: value for name, value in beneath.items() if name not in gone} | dict(above)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `grouped` gives as one table, "group.setting" -> value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = flat(value) if isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": v for key, v in inner.items()}
    return found


def recorded(values: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A setting of what `grouped` gives, `default` where it is not there."""
    group = values.get(GROUP_OF[name])
    return group.get(name, default) if isinstance(group, Mapping) else default
