"""What grid.py compares, in one table. Ablations are ELFS with one part of it changed: a line in ELFS each."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from patchcore_fast.samplers import GreedyCoresetSampler, RandomSampler

BASELINE, OURS = "greedy", "elfs"
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
