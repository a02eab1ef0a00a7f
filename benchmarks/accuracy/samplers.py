"""What grid.py compares, in one table. Ablations are ELFS with one part of it changed: a line in ELFS each."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore_fast.config.toml import read_toml
from patchcore_fast.samplers import (
    ApproximateGreedyCoresetSampler,
    GreedyCoresetSampler,
    IdentitySampler,
    RandomSampler,
)

BASELINE, OURS, BEST = "greedy", "elfs", "composite, best"
IMAGES = 0.9  # share of the images that "ELFS proper" keeps
RULE: dict[str, Any] = {"prune_support": "rule"}  # the default when the committed pages were made
# name -> what ELFSCoresetSampler is given beside RULE
ELFS: dict[str, dict[str, Any]] = {
    OURS: {},
    "elfs without support": {"prune_support": False},
    "elfs without settling": {"settle": 0.0},
    "elfs + hard end": {"mode": "pseudo"},
    "elfs + easy end": {"mode": "pseudo", "prune_hard": 0.0, "prune_easy": 0.1},
    "elfs + rarest end": {"prune_hard": 0.05},
    "elfs + density": {"w_density": 0.1},
    "elfs + representativeness": {"w_repr": 0.1},
    "elfs + difficulty": {"mode": "pseudo", "prune_hard": 0.0, "w_unc": 0.1},
    "elfs + instability": {"instability": "views", "w_unc": 0.1},
}
Make = Callable[[float, int, str | None], Any]


@dataclass(frozen=True)
class Entry:
    """make(share of rows, seed, device) gives the sampler; about is for the page; kind "main" or "ablation"."""

    make: Make
    about: str
    kind: str = "main"


def _elfs(options: dict[str, Any]) -> Make:
    given = RULE | options
    return lambda ratio, seed, device: _class("elfs", "ELFSCoresetSampler")(ratio, device, seed=seed, **given)


def _two_level(ratio: float, seed: int, device: str | None) -> Any:
    """The images that the others support, then exact greedy over their patches."""
    images = _class("two_level", "SupportedImages")(seed=seed, device=device)
    return _class("two_level", "TwoLevelSampler")(images, GreedyCoresetSampler(ratio, device, seed=seed))


def _images_by_elfs(ratio: float, seed: int, device: str | None) -> Any:
    """ELFS's own images, then exact greedy over their patches."""
    images = _class("elfs_images", "ELFSImageSampler")(IMAGES, seed=seed, device=device)
    return _class("two_level", "TwoLevelSampler")(images, GreedyCoresetSampler(ratio, device, seed=seed))


def _composite(ratio: float, seed: int, device: str | None, **options: Any) -> Any:
    return _class("elfs", "ELFSCoresetSampler")(ratio, device, seed=seed, preset="composite", **options)


def chosen(folder: Path, set_name: str) -> dict[str, Any]:
    """The options that `patchcore-fast grid` chose for a set, from its best.toml, kept as FOLDER/SET.toml.

    Raises
    ------
    SystemExit : there is no such file, or it chooses nothing for the composite sampler.
    """
    path = folder / f"{set_name}.toml"
    if not path.is_file():
        raise SystemExit(f"{path}: is not there; it is best.toml of `patchcore-fast grid` on {set_name}")
    selection = read_toml(path).get("selection", {})
    if selection.get("sampler") != "composite":
        raise SystemExit(f"{path}: is of sampler {selection.get('sampler')!r}, composite is wanted")
    return dict(selection.get("sampler_options", {}))


def make(name: str, ratio: float, seed: int, device: str | None, best: Mapping[str, Any] | None = None) -> Any:
    """A sampler of the table; `best` is what `chosen` gives for the set, for BEST alone."""
    return _composite(ratio, seed, device, **best) if best and name == BEST else TABLE[name].make(ratio, seed, device)


def _about(options: dict[str, Any]) -> str:
    return f"ELFSCoresetSampler with {', '.join(f'{name}={value!r}' for name, value in (RULE | options).items())}"


TABLE: dict[str, Entry] = {
    "random": Entry(lambda ratio, seed, _: RandomSampler(ratio, seed), "uniformly, without replacement"),
    BASELINE: Entry(
        lambda ratio, seed, device: GreedyCoresetSampler(ratio, device, seed=seed),
        "exact k-center greedy after a 128-d random projection, PatchCore's",
    ),
    **{name: Entry(_elfs(o), _about(o), "ablation" if o else "main") for name, o in ELFS.items()},
    "two-level": Entry(_two_level, "TwoLevelSampler: images that the others support, then greedy over their patches"),
    "no coreset": Entry(lambda *_: IdentitySampler(), "all rows"),
    "approximate": Entry(
        lambda ratio, seed, device: ApproximateGreedyCoresetSampler(ratio, device, seed=seed),
        "greedy from the mean distance to 10 random rows, PatchCore's own short cut",
    ),
    "composite": Entry(_composite, 'ELFSCoresetSampler(preset="composite") with its defaults'),
    BEST: Entry(_composite, "the same with what `patchcore-fast grid` chose on the clean set, by normal images alone"),
    "ELFS proper": Entry(_images_by_elfs, "TwoLevelSampler: ELFS's images by training dynamics, then greedy over them"),
}


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"patchcore_fast.samplers.{module}"), name)


def check(names: list[str]) -> None:
    """Make each sampler once, so that a name or an option that is none ends the run before hours of it.

    Raises
    ------
    SystemExit : says which cannot be made, and why.
    """
    for name in names:
        if name not in TABLE:
            raise SystemExit(f"--samplers: {name} unknown; there are {', '.join(TABLE)}")
        try:
            TABLE[name].make(0.01, 0, None)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise SystemExit(f"{name} cannot be made: {error}") from error


def wants_views(name: str) -> bool:
    """Whether a sampler looks at augmented images."""
    return ELFS.get(name.removesuffix(" bare"), {}).get("instability") == "views"


def takes(sampler: Any) -> list[str]:
    """Which of positions and image_ids `select` takes beside features; positions say all that image_ids do."""
    known = inspect.signature(sampler.select).parameters
    return [name for name in ("positions", "image_ids") if name in known][:1]
