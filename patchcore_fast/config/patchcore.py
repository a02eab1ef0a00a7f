"""All settings of a PatchCore model, in groups."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patchcore_fast.config.base import nearest, settings_of
from patchcore_fast.config.decision import DecisionSettings
from patchcore_fast.config.features import FeatureSettings
from patchcore_fast.config.presets import PRESETS
from patchcore_fast.config.record import GROUP_OF, GROUPS, OLD_NAMES, current, grouped, laid
from patchcore_fast.config.running import RunningSettings
from patchcore_fast.config.scoring import ScoringSettings
from patchcore_fast.config.search import SearchSettings
from patchcore_fast.config.selection import SelectionSettings
from patchcore_fast.config.toml import kept_toml, read_toml, toml_text
from patchcore_fast.config.tracking import TrackingSettings
from patchcore_fast.errors import DataError

SAID = 5  # unknown names in a message: a file may hold any number of them


@dataclass(frozen=True, init=False, repr=False)
class PatchCoreConfig:
    """All that decides what a PatchCore model computes; checked when it is made.

    A setting is given and read by its name alone, for no name is in two groups: `PatchCoreConfig(ratio=0.1).ratio` is
    `PatchCoreConfig(selection=SelectionSettings(ratio=0.1)).selection.ratio`. What each one means, and its default,
    stands in the class of its group.

    Parameters
    ----------
    features, selection, search, scoring, decision, running : groups; the defaults when left out.
    settings : single settings by name, over those of the groups. `score` and scorer="reweighted", of earlier versions,
        are image_score.

    Raises
    ------
    TypeError, ValueError : a setting of the wrong type or out of range, or one that there is not; the message names
        group and setting.
    """

    features: FeatureSettings
    selection: SelectionSettings
    search: SearchSettings
    scoring: ScoringSettings
    decision: DecisionSettings
    running: RunningSettings

    def __init__(
        self,
        *,
        features: FeatureSettings | None = None,
        selection: SelectionSettings | None = None,
        search: SearchSettings | None = None,
        scoring: ScoringSettings | None = None,
        decision: DecisionSettings | None = None,
        running: RunningSettings | None = None,
        **settings: Any,
    ) -> None:
        """Make the groups, then hold them against each other."""
        given = {"features": features, "selection": selection, "search": search, "scoring": scoring,
                 "decision": decision, "running": running}  # fmt: skip
        changes = grouped(settings)
        if unknown := [name for name in changes if name not in GROUPS]:
            raise TypeError(_unknown(unknown))
        for name, kind in GROUPS.items():
            group = kind() if given[name] is None else given[name]
            if not isinstance(group, kind):
                raise TypeError(f"PatchCoreConfig: {name} must be a {kind.__name__}, got {type(group).__name__}")
            object.__setattr__(self, name, group.replace(**changes.get(name, {})))
        if self.features.metric == "cosine" and self.scoring.distance == "squared":
            raise ValueError(
                'PatchCoreConfig: scoring.distance "squared" is of the metric "euclidean"; cosine scores are 1 - cos, '
                "half of the squared distance"
            )
        side = max(self.resize or (self.features.tile or 0,))  # "native" has a tile
        if not 0 <= self.scoring.sigma <= side:
            raise ValueError(
                f"PatchCoreConfig: scoring.sigma must be finite and >= 0, at most the {side} pixels of an image's "
                f"side, got {self.sigma}"
            )
        if self.selection.banks == "layer":
            if self.features.fusion != "concat":
                raise ValueError(
                    'PatchCoreConfig: selection.banks="layer" keeps layers apart: features.fusion must be "concat", '
                    f"got {self.features.fusion!r}"
                )
            if (learnt := self.features.fitted_reduction) is not None:
                raise ValueError(
                    f'PatchCoreConfig: features.reduction={learnt!r} mixes layers, which selection.banks="layer" keeps '
                    "apart"
                )
            if self.scoring.image_score == "reweighted":
                raise ValueError(
                    'PatchCoreConfig: scoring.image_score="reweighted" looks into one bank, selection.banks is "layer"'
                )

    def __getattr__(self, name: str) -> Any:
        """A setting by its name alone."""
        name = OLD_NAMES.get(name, name)
        group = self.__dict__.get(GROUP_OF.get(name, ""))
        if group is None:
            raise AttributeError(f"PatchCoreConfig has no setting {name}{nearest(name, GROUP_OF)}")
        return getattr(group, name)

    def __repr__(self) -> str:
        """The settings that are neither the defaults nor follow from others."""
        changed = [
            f"{f.name}={getattr(getattr(self, name), f.name)!r}"
            for name, kind in GROUPS.items()
            for f in settings_of(kind)
            if f.name not in getattr(self, name).followed and getattr(getattr(self, name), f.name) != f.default
        ]
        return f"PatchCoreConfig({', '.join(changed)})"

    @property
    def resize(self) -> tuple[int, int] | None:
        """(height, width) every image is resized to; see `FeatureSettings.resize`."""
        return self.features.resize

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) of the score maps, None where it differs; see `FeatureSettings.input_size`."""
        return self.features.input_size

    @property
    def scorer_name(self) -> str:
        """What tables call the scoring; see `ScoringSettings.scorer_name`."""
        return self.scoring.scorer_name

    @property
    def squared(self) -> bool:
        """Whether scores go with the squares of distances, as cosine distances do."""
        return self.scoring.distance == "squared" or self.features.metric == "cosine"

    def replace(self, **changes: Any) -> PatchCoreConfig:
        """The same with other groups or single settings; arguments and errors as of the class."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types by group, {"features": {...}, ...}; `from_dict` gives an equal config back."""
        found: dict[str, Any] = {
            name: {f.name: _plain(getattr(getattr(self, name), f.name)) for f in settings_of(kind)}
            for name, kind in GROUPS.items()
        }
        for pairs in ("sampler_options", "sampler_parameters"):
            if (given := getattr(self.selection, pairs)) is not None:
                found["selection"][pairs] = {name: _plain(value) for name, value in given}
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PatchCoreConfig:
        """Inverse of `to_dict`; takes the flat dicts of earlier versions too.

        Raises
        ------
        TypeError, ValueError : as the class; ValueError for settings that this version does not know.
        """
        values = grouped(values)
        unknown = [name for name in values if name not in GROUPS]
        for name, kind in GROUPS.items():
            group = values.get(name, {})
            if not isinstance(group, Mapping):
                raise TypeError(f"PatchCoreConfig: {name} must hold settings by name, got {group!r}")
            known = {f.name for f in settings_of(kind)}
            unknown += [f"{name}.{setting}" for setting in group if setting not in known]
        if unknown:
            raise ValueError(_unknown(unknown))
        return cls(**{name: kind(**values.get(name, {})) for name, kind in GROUPS.items()})  # type: ignore[arg-type]

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], preset: str = "patchcore") -> PatchCoreConfig:
        """The settings of a TOML file, a table a group; what it leaves out is as in a preset of `PRESETS`.

        A table [tracking] may be there too (`TrackingSettings.from_toml`).

        Raises
        ------
        DataError : no such file, no TOML, or a setting that is wrong; the message names file, group and setting.
        ValueError : no such preset.
        """
        if not os.path.isfile(path):
            raise DataError(f"{os.fspath(path)}: no such file")
        beneath = grouped(_preset(preset))
        try:
            values = read_toml(path)
            # Of the run, not of the model: checked only.
            TrackingSettings.of_table(values.pop(TrackingSettings.group, {}))
            if "method" in values:
                raise ValueError(f"is of the method {values['method']!r}, which patchcore-fast train takes")
            if beside := [name for name in values if name not in GROUPS]:
                home = GROUP_OF.get(beside[0])
                raise ValueError(f"{beside[0]} belongs into [{home}]" if home else _unknown(beside))
            for name, group in beneath.items():
                if isinstance(above := values.setdefault(name, {}), dict):
                    values[name] = laid(group, above)
            return cls.from_dict(values)
        except (TypeError, ValueError) as error:
            raise DataError(f"{os.fspath(path)}: {str(error).removeprefix('PatchCoreConfig: ')}") from error

    def to_toml(self, path: str | os.PathLike[str] | None = None) -> str:
        """The text of a file that `from_toml` reads; written whole where a path is given."""
        return kept_toml(toml_text(self.to_dict()), path)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> PatchCoreConfig:
        """The settings of a published method, one of `PRESETS` (docs/presets.md), with others instead.

        Raises
        ------
        ValueError : no such preset.  TypeError, ValueError : as the class.
        """
        overrides = current(overrides)
        return cls(**laid(_preset(name), overrides))

    @classmethod
    def amazon(cls, **overrides: Any) -> PatchCoreConfig:
        """The scoring path of amazon-science/patchcore-inspection (WideResNet-50, 224 px, 10 %)."""
        return cls.preset("amazon", **overrides)

    @classmethod
    def anomalib(cls, **overrides: Any) -> PatchCoreConfig:
        """The scoring path of anomalib's Patchcore (WideResNet-50, 256 px, 10 %, re-weighting with b = 9)."""
        return cls.preset("anomalib", **overrides)


def _preset(name: str) -> Mapping[str, Any]:
    if name not in PRESETS:
        near = nearest(name, PRESETS)
        raise ValueError(f"PatchCoreConfig: preset must be one of {', '.join(PRESETS)}, got {name!r}{near}")
    return PRESETS[name].settings


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _unknown(names: list[str]) -> str:
    """Names as they were given, each with the nearest that there is: of its group, or of all."""
    said = []
    for name in names[:SAID]:
        group, _, setting = name.rpartition(".")
        known = [n for n, home in GROUP_OF.items() if home == group] if group else [*GROUP_OF, *GROUPS]
        home = GROUP_OF.get(setting) if group else None
        said.append(name + (f" (it belongs into {home})" if home else nearest(setting, known)))
    more = f" and {len(names) - SAID:,} more" if len(names) > SAID else ""
    return f"PatchCoreConfig: unknown fields {', '.join(said)}{more}"
