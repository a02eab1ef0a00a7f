"""The best weights of a grid, by held-out normal images and synthetic defects alone; test labels are not looked at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.toml import toml_text
from patchcore_fast.experiments.combinations import Combination
from patchcore_fast.experiments.table import Row

LOOKED_AT = ("name", "ratio", "seed", "sampler", "choice", "pixel_ap")  # of a row; nothing else decides


@dataclass(frozen=True)
class Best:
    """The composite setting that was chosen, and why.

    combination : of the first ratio and seed.  value : its "choice", the mean of image and pixel AUROC, over all ratios
    and seeds.  sentence : how it was chosen, for people.
    """

    combination: Combination
    value: float
    sentence: str


def choose(rows: Sequence[Row], plan: Sequence[Combination], about: dict[str, Any]) -> Best | None:
    """The composite setting of the highest mean "choice" over ratios and seeds; of equals the higher pixel AP, then the
    first of the plan. None where no setting has all of its rows.

    Parameters
    ----------
    rows : of a `table.Table`.  plan : what the rows were planned as.  about : `Material.about`.
    """
    seen = [{name: row[name] for name in LOOKED_AT} for row in rows]
    known = {(row["name"], row["ratio"], row["seed"]): row for row in seen if row["choice"] is not None}
    names = dict.fromkeys(c.name for c in plan)
    means: dict[str, tuple[float, float, float]] = {}  # choice, pixel AP, spread of the choice over seeds
    for name in names:
        found = [known.get(c.key) for c in plan if c.name == name]
        whole = [row for row in found if row is not None]
        if len(whole) == len(found):
            values = np.array([row["choice"] for row in whole])
            ap = float(np.mean([row["pixel_ap"] for row in whole]))
            means[name] = (float(values.mean()), ap, float(np.ptp(values)))
    settings = [c for c in plan if c.sampler == "composite" and c.name in means]
    if not settings:
        return None
    best = max(settings, key=lambda c: means[c.name][:2])  # of equals the first
    value, _, spread = means[best.name]
    others: dict[str, float] = {name: means[name][0] for name in ("greedy", "random") if name in means}
    return Best(best, value, _sentence(best, value, spread, others, len({c.name for c in settings}), plan, about))


def _sentence(
    best: Combination, value: float, spread: float, others: dict[str, float], count: int, plan: Sequence[Combination],
    about: dict[str, Any],
) -> str:  # fmt: skip
    good, bad = len(about["held_out"]), len(about["held_out"]) * about["synthetic"]
    runs = len({(c.ratio, c.seed) for c in plan})
    over = f", the mean of {runs} runs (ratios and seeds), which span {spread:.4f}" if runs > 1 else ""
    said = " and ".join(f"{_CALLED[name]} {number:.4f}" for name, number in others.items())
    text = (
        f"{best.name}: the highest mean of image and pixel AUROC of {count:,} settings, {value:.4f}{over}, by {good} "
        f"normal training images that were held out and {bad} copies of them with synthetic defects; test images had "
        "no part in it"
    )
    text += f" ({said})." if said else "."
    if others.get("greedy", -1.0) >= value:
        text += " Exact greedy is at least as good: here no weights are worth their time."
    return text


_CALLED = {"greedy": "exact greedy has", "random": "random rows"}


def best_config(best: Best, config: PatchCoreConfig) -> str:
    """Text of a TOML file for `fit --config`: those of the experiment with the chosen sampler and its options."""
    c = best.combination
    size = {"ratio": c.ratio, "budget": None, "count": None}
    chosen = config.replace(sampler=c.sampler, seed=c.seed, sampler_options=dict(c.options), **size)
    groups = {name: group for name, group in chosen.to_dict().items() if name != "running"}
    lines = textwrap.wrap(best.sentence, 116)
    return "".join(f"# {line}\n" for line in lines) + "\n" + toml_text(groups)
