"""What is compared: methods by name with their settings, and the cells of the table. Nothing here imports torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.base import nearest, settings_of
from patchcore_fast.config.methods import METHODS, MethodConfig, settings_kind, three_layers
from patchcore_fast.errors import DataError

BANKS: Mapping[str, Mapping[str, Any]] = {"patchcore": {}, "elfs": {"sampler": "elfs"}}  # name -> settings of its own
FOREIGN = "anomalib:"
MOST_SEEDS = 100


@dataclass(frozen=True)
class Entry:
    """A method of the comparison.

    name : "patchcore", "elfs", one of `METHODS`, or "anomalib:NAME".  settings : plain JSON types, as its config's
    `to_dict` gives them.
    """

    name: str
    settings: Mapping[str, Any]

    def seeded(self, seed: int) -> dict[str, Any]:
        """The settings with another seed."""
        return {**self.settings, "selection": {**self.settings["selection"], "seed": seed}}


@dataclass(frozen=True)
class Cell:
    """One method on one set with one seed; folder has the set in MVTec layout."""

    set: str
    folder: Path
    method: str
    seed: int

    @property
    def said(self) -> str:
        """For people."""
        return f"{self.set}, {self.method}, seed {self.seed}"

    @property
    def file(self) -> Path:
        """Of its record, relative to the output; ":" is no character of a file name everywhere."""
        return Path("cells", self.set, f"{self.method.replace(':', '-')}-{self.seed}.json")


def checked_names(text: str) -> tuple[str, ...]:
    """`patchcore,padim,anomalib:Stfpm`. DataError: unknown, or twice; ImportError: anomalib is wanted and not here."""
    names = tuple(part.strip() for part in text.split(","))
    known = (*BANKS, *METHODS)
    for name in names:
        if name.startswith(FOREIGN):
            check_foreign(name)
        elif name not in known:
            raise DataError(
                f"--methods: must be of {', '.join(known)} or anomalib:NAME, got {name!r}{nearest(name, known)}"
            )
    if again := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(f"--methods: each once, got {', '.join(again)} more than once")
    return names


def check_foreign(name: str) -> None:
    """As `checked_names`; anomalib is looked for and not imported, which takes seconds."""
    try:
        found = importlib.util.find_spec("anomalib")
    except ValueError:
        found = None
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"--methods {name} needs anomalib: pip install anomalib")
    models = Path(next(iter(found.submodule_search_locations)), "models", "image")
    known = {"".join(p.title() for p in f.name.split("_")) for f in models.glob("*/") if (f / "__init__.py").is_file()}
    wanted = name.removeprefix(FOREIGN)
    if plain(wanted) not in {plain(k) for k in known}:
        raise DataError(f"--methods: anomalib has no model {wanted!r}{nearest(wanted, sorted(known))}")


def plain(name: str) -> str:
    """Of a model of anomalib, however it is written: EfficientAd, efficient_ad."""
    return name.replace("_", "").lower()


def entries(
    names: Sequence[str], files: Mapping[str, str], shared: Mapping[str, Any], epochs: int | None = None
) -> list[Entry]:
    """The methods with their settings: their defaults, over them those of a file, over both `shared`.

    Parameters
    ----------
    names : of `checked_names`.  files : method -> TOML file.  shared : settings of PatchCoreConfig by name.
    epochs : of methods that are trained, in place of their own number.

    Raises
    ------
    DataError, ValueError : a file or a setting that is wrong.
    """
    if strange := [name for name in files if name not in names]:
        raise DataError(f"--config: {strange[0]} is none of --methods {','.join(names)}{nearest(strange[0], names)}")
    if foreign := [name for name in files if name.startswith(FOREIGN)]:
        raise DataError(f"--config: {foreign[0]} has no file of settings; those of anomalib stay as they are there")
    return [Entry(name, _settings(name, files.get(name), shared, epochs)) for name in names]


def _settings(name: str, file: str | None, shared: Mapping[str, Any], epochs: int | None) -> dict[str, Any]:
    if name in METHODS:
        return _trained(name, file, shared, epochs).to_dict()
    if name.startswith(FOREIGN):
        return _foreign(name, shared) | {"anomalib": {"epochs": epochs}}
    config = PatchCoreConfig() if file is None else PatchCoreConfig.from_toml(file)
    return config.replace(**BANKS[name], **shared).to_dict()


def _trained(name: str, file: str | None, shared: Mapping[str, Any], epochs: int | None) -> MethodConfig:
    kind = settings_kind(name)
    if file is None:
        base, own = PatchCoreConfig(**shared), kind()
    else:
        found = MethodConfig.from_toml(file)
        if found.method != name:
            raise DataError(f"--config: {file} is of method {found.method!r}, and given for {name!r}")
        base, own = found.base.replace(**shared), found.settings
    if epochs is not None and "epochs" in {f.name for f in settings_of(kind)}:
        own = own.replace(epochs=epochs)
    return MethodConfig(name, base, own)


def _foreign(name: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """What a model of anomalib takes of ours; layers as our own methods of its kind have them."""
    config = PatchCoreConfig(**shared)
    if "layers" not in shared and plain(name) != plain(f"{FOREIGN}patchcore"):
        config = config.replace(layers=three_layers(config.backbone))
    return {
        group: values for group, values in config.to_dict().items() if group in ("features", "selection", "running")
    }


def cells(sets: Sequence[Path], methods: Sequence[Entry], seeds: Sequence[int]) -> list[Cell]:
    """All of the table, set by set."""
    return [Cell(folder.resolve().name or "set", folder, entry.name, seed)
            for folder in sets for entry in methods for seed in seeds]  # fmt: skip
