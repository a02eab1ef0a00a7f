"""What `ELFSCoresetSampler(preset="composite")` may be told: names, ranges, and what stands where nothing is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .base import check_count, is_number
from .pruning import SupportRule

# Names that only this preset has: to give one is to ask for it.
ONLY = (
    "repr", "density", "density_subsample", "batch_size_instability", "proxy_steps", "difficulty", "pool", "min_pool",
    "alpha", "beta", "clean", "dim_reduce",
)  # fmt: skip
INSTABILITY = ("noise", "views", "proxy", "difficulty")
MEASURES = ("aum", "forgetting", "el2n")  # of difficulty; several joined by "+", or "mean" of all
_CHOICES = {
    "repr": ("mean", "clusters"),
    "density": ("rarity", "dense"),
    "pool": ("composite", "diversity", "refined"),
}


def asked_for(preset: Any, given: Mapping[str, Any]) -> bool:
    """Whether the arguments of the constructor mean this preset; ValueError where `preset` is no preset."""
    if preset not in (None, "composite"):
        raise ValueError(f'preset must be "composite" or None, got {preset!r}')
    named = any(given[name] is not None for name in ONLY) or given["instability"] in ("proxy", "difficulty")
    off = given["instability"] is None and given["noise_T"] == 0 and not isinstance(given["noise_T"], bool)
    return preset == "composite" or named or off


@dataclass(frozen=True)
class CompositeOptions:
    """Settings of the composite preset, checked; docs/elfs.md says what each is for.

    w_repr, w_density, w_unc : of the signals in 0..1.  repr, n_clusters; density, k_density, density_subsample;
    instability (None: no such signal), noise_std, noise_T, batch_size_instability, proxy_steps, difficulty, epochs :
    how these are measured.  pool, topk_pool_multiplier, min_pool : the rows that may be picked.  alpha, beta : of the
    key that the picks have; alpha 0: plain k-center.  clean : share of the picks that is replaced.
    """

    w_repr: float
    w_density: float
    w_unc: float
    repr: str
    n_clusters: int
    density: str
    k_density: int
    density_subsample: int
    instability: str | None
    noise_std: float
    noise_T: int
    batch_size_instability: int
    proxy_steps: int
    difficulty: str
    epochs: int
    pool: str
    topk_pool_multiplier: float
    min_pool: int
    alpha: float
    beta: float
    clean: float

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> CompositeOptions:
        """From the arguments of the constructor, None where nothing was said.

        Raises
        ------
        TypeError, ValueError : a value of the wrong kind or out of range, or one of another preset.
        """
        _check_others(given)
        said = {name: value for name, value in given.items() if value is not None}
        for name, choices in _CHOICES.items():
            if said.get(name, choices[0]) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {said[name]!r}")
        subsample = said.get("density_subsample", said.get("approximate_starting_points", said["anchors"]))
        what = "density_subsample" if "density_subsample" in said else "approximate_starting_points"
        if check_count(what, subsample) < 2:
            raise ValueError(f"{what} must be >= 2, a row's own anchor does not count; got {subsample}")
        draws = said.get("noise_T", 5)
        if draws != 0 or isinstance(draws, bool):
            draws = check_count("noise_T", draws)
        instability = said.get("instability")
        if instability is None and ("noise_std" in said or "noise_T" in said):
            instability = "noise"
        if instability == "noise" and (draws == 0 or said.get("noise_std") == 0):
            instability = None
        return cls(
            **{name: _number(name, said.get(name, 1.0), -1e6, 1e6) for name in ("w_repr", "w_density", "w_unc")},
            repr=said.get("repr", "mean"),
            n_clusters=check_count("n_clusters", said["n_clusters"]),
            density=said.get("density", "rarity"),
            k_density=check_count("k_density", said["k_density"]),
            density_subsample=int(subsample),
            instability=instability,
            noise_std=_number("noise_std", said.get("noise_std", 0.05), 0.0, 1e30),
            noise_T=int(draws),
            batch_size_instability=check_count("batch_size_instability", said.get("batch_size_instability", 1024)),
            proxy_steps=check_count("proxy_steps", said.get("proxy_steps", 8)),
            difficulty=_difficulty(said.get("difficulty", "aum")),
            epochs=check_count("epochs", said["epochs"]),
            pool=said.get("pool", "composite"),
            topk_pool_multiplier=_number("topk_pool_multiplier", said.get("topk_pool_multiplier", 5.0), 1.0, 1e9),
            min_pool=0 if said.get("min_pool", 0) == 0 else check_count("min_pool", said["min_pool"]),
            alpha=_number("alpha", said.get("alpha", 0.0), 0.0, 1e30),
            beta=_number("beta", said.get("beta", 1.0), -1e30, 1e30),
            clean=_number("clean", said.get("clean", 0.0), 0.0, 1.0),
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures of difficulty that are averaged."""
        return MEASURES if self.difficulty == "mean" else tuple(self.difficulty.split("+"))

    @property
    def third(self) -> str:
        """The key of the third signal in `scores_`."""
        return "difficulty" if self.instability == "difficulty" else "instability"

    def units(self) -> dict[str, str]:
        """What the numbers of each of `scores_` are, for axes of pictures."""
        third = {"proxy": "mean change of a proxy's outputs", "difficulty": self.difficulty,
                 "views": "mean distance to changed images", "noise": "mean distance to noisy copies"}  # fmt: skip
        if self.difficulty == "aum":
            third["difficulty"] = "minus the area under the margin"
        return {
            "representativeness": f"distance to the {'mean' if self.repr == 'mean' else 'nearest centre'}",
            "density": f"{'1 / ' if self.density == 'dense' else ''}mean distance to near anchors",
            self.third: third.get(self.instability or "", ""),
            "composite": "weighted sum, each signal in 0 to 1",
        }

    def pool_size(self, count: int, rows: int) -> int:
        """Rows that may be picked, where `count` of `rows` are to be."""
        return min(rows, max(math.ceil(count * self.topk_pool_multiplier), self.min_pool))

    def facts(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    def attributes(self) -> dict[str, Any]:
        """The attributes of a sampler with this preset: each is what the constructor takes by that name."""
        others = {"mode": "feature", "rule": SupportRule.of(False), "prune_support": False, "settle": None}
        return self.facts() | others | {"anchors": self.density_subsample}


def _check_others(given: Mapping[str, Any]) -> None:
    """What belongs to the other signals of the sampler has no part in this preset."""
    for name, off in (
        ("mode", ("feature",)), ("prune_support", (False, None)), ("prune_hard", (None, 0)), ("prune_easy", (None, 0)),
        ("settle", (None, 0)),
    ):  # fmt: skip
        if not any(given[name] is value or given[name] == value for value in off):
            raise ValueError(f'{name} has no part in preset="composite", got {given[name]!r}')
    if given["instability"] not in (None, *INSTABILITY):
        raise ValueError(f"instability must be None or one of {', '.join(INSTABILITY)}, got {given['instability']!r}")


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not (is_number(value) and low <= value <= high):
        raise ValueError(f"{name} must be a number in {low:g}..{high:g}, got {value!r}")
    return float(value)


def _difficulty(value: Any) -> str:
    parts = value.split("+") if isinstance(value, str) else []
    if value != "mean" and (not parts or len(set(parts)) < len(parts) or not set(parts) <= set(MEASURES)):
        raise ValueError(
            f'difficulty must be one of {", ".join(MEASURES)}, several joined by "+", or mean, got {value!r}'
        )
    return str(value)
