"""What an experiment tries: combinations of settings, each once, in an order that does not depend on how it is run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WEIGHTS = ("w_repr", "w_density", "w_unc")
POOLS = ("composite", "diversity", "refined")
NOISE_STD = 1e-3  # of the noisy copies, as the method was described
CLEANED = 0.1  # share of the picks, of the step "clean"


@dataclass(frozen=True)
class Combination:
    """One row of an experiment.

    Attributes
    ----------
    name : unique among the rows of a table, without ratio and seed.
    sampler : a name of `samplers.make_sampler`.  ratio : share of the rows that it picks, 1 of "identity".
    seed : of projection, anchors and noise.  options : of the sampler, by name.
    """

    name: str
    sampler: str
    ratio: float
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> tuple[str, float, int]:
        """What tells rows apart."""
        return self.name, self.ratio, self.seed


def composite(
    ratio: float, seed: int, weights: Sequence[float], points: int, noise: int, pool: str, name: str = "", **more: Any
) -> Combination:
    """The composite sampler with weights (w_repr, w_density, w_unc), so many anchors of the density, and noisy copies.

    more : options beside or in place of these.
    """
    options: dict[str, Any] = dict(zip(WEIGHTS, map(float, weights), strict=True))
    options |= {"density_subsample": points, "instability": "noise", "noise_T": noise, "noise_std": NOISE_STD}
    options["pool"] = pool
    name = name or f"{'/'.join(f'{w:g}' for w in weights)} points={points} noise={noise} pool={pool}"
    return Combination(name, "composite", ratio, seed, options | more)


def grid(
    weights: Sequence[float],
    points: Sequence[int],
    noise: Sequence[int],
    pools: Sequence[str],
    ratios: Sequence[float],
    seeds: Sequence[int],
    limit: int | None = None,
    seed: int = 0,
) -> tuple[list[Combination], int]:
    """All rows of the grid, base lines (exact greedy, random) first, and how many settings were asked for.

    weights x weights x weights x points x noise x pools, each composite that differs once: where the density has no
    weight the number of anchors changes nothing, without noisy copies the instability is 0 and its weight changes
    nothing, and without weights every row scores 0.

    Parameters
    ----------
    weights : for each of the three signals.  points : anchors of the density.  noise : noisy copies, 0 for none.
    limit : at most so many of the settings, drawn by `seed`; of each ratio and sampler seed the same ones.

    Raises
    ------
    ValueError : an empty axis, a value out of range, or a limit below 1.
    """
    _check(weights, points, noise, pools, ratios, seeds, limit)
    asked = list(itertools.product(*[weights] * 3, points, noise, pools))
    distinct = dict.fromkeys(_canonical(setting, points[0], pools[0]) for setting in asked)
    settings = list(distinct)
    if limit is not None and limit < len(settings):
        drawn = np.random.default_rng(seed).choice(len(settings), limit, replace=False)
        settings = [settings[i] for i in sorted(drawn)]
    found: list[Combination] = []
    for ratio, number in itertools.product(ratios, seeds):
        found += [Combination(name, name, ratio, number) for name in ("greedy", "random")]
        found += [composite(ratio, number, (r, d, u), p, n, pool) for r, d, u, p, n, pool in settings]
    return found, len(asked)


def steps(ratios: Sequence[float], seeds: Sequence[int]) -> list[Combination]:
    """The ablation: simpler samplers, the composite as it was described, and this with one change at a time."""
    described: dict[str, Any] = {"weights": (1.0, 1.0, 1.0), "points": 1000, "noise": 3, "pool": "composite"}
    found = [Combination("no coreset", "identity", 1.0, seeds[0])]
    for ratio, seed in itertools.product(ratios, seeds):
        simple = {"random": "random", "approximate greedy": "approximate", "exact greedy": "greedy"}
        found += [Combination(name, sampler, ratio, seed) for name, sampler in simple.items()]
        changes: dict[str, dict[str, Any]] = {
            "composite": {}, "density inverted": {"density": "dense"}, "instability off": {"noise": 0},
            "pool by diversity": {"pool": "diversity"}, "refined by score": {"pool": "refined"},
            "clean": {"clean": CLEANED},
        }  # fmt: skip
        found += [composite(ratio, seed, **(described | change), name=name) for name, change in changes.items()]
    return found


def _canonical(setting: tuple[Any, ...], points: int, pool: str) -> tuple[Any, ...]:
    r, d, u, p, n, kind = setting
    if not n or not u:
        n, u = 0, 0.0
    if not d:
        p = points
    return (r, d, u, p, n, pool if not (r or d or u) else kind)


def _check(
    weights: Sequence[float],
    points: Sequence[int],
    noise: Sequence[int],
    pools: Sequence[str],
    ratios: Sequence[float],
    seeds: Sequence[int],
    limit: int | None,
) -> None:
    def each(what: str, values: Iterable[Any], good: Any, wanted: str) -> None:
        listed = list(values)
        if not listed or len(set(listed)) < len(listed) or not all(map(good, listed)):
            raise ValueError(f"grid: {what} must be {wanted}, each once, got {listed}")

    each("weights", weights, lambda w: -10 <= w <= 10, "numbers in -10..10")
    each("starting points", points, lambda p: p >= 2, "numbers of anchors, at least 2")
    each("noise", noise, lambda n: n >= 0, "numbers of noisy copies, at least 0")
    each("pools", pools, lambda p: p in POOLS, f"of {', '.join(POOLS)}")
    each("ratios", ratios, lambda r: 0 < r < 1, "shares in (0, 1)")
    each("seeds", seeds, lambda s: 0 <= s < 2**32, "in 0..2**32 - 1")
    if limit is not None and limit < 1:
        raise ValueError(f"grid: limit must be at least 1, got {limit}")
