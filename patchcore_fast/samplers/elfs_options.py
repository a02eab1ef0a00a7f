"""Checks of what `ELFSCoresetSampler` is told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from .base import check_count, is_number
from .pruning import SupportRule, checked_share

MODES = ("feature", "pseudo")
_HARD = 0.1  # what mode "pseudo" prunes of the hard end, where nothing else is said
_warned: set[str] = set()


def plain_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a sampler of this name without a preset, from the arguments of its constructor, which calls it.

    Raises
    ------
    TypeError, ValueError : a value of the wrong kind or out of range, or one that needs another.
    """
    found: dict[str, Any] = {what: given[what] for what in ("mode", "instability", "prune_support")}
    check_choices(found["mode"], found["instability"])
    found["rule"] = support_rule(given["prune_support"])
    hard = _HARD if given["prune_hard"] is None and found["mode"] == "pseudo" else given["prune_hard"]
    found["prune_hard"] = checked_share("prune_hard", hard)
    found["prune_easy"] = checked_share("prune_easy", given["prune_easy"])
    weights = found["weights"] = checked_weights(given["w_repr"], given["w_density"], given["w_unc"])
    if weights["uncertainty"] and found["mode"] != "pseudo" and found["instability"] is None:
        raise ValueError(f'{name}: w_unc needs mode="pseudo" or instability')
    for what in ("w_repr", "w_density", "w_unc"):
        found[what] = 0.0 if given[what] is None else given[what]
    for what in ("k_density", "anchors", "n_clusters", "epochs"):
        found[what] = check_count(what, given[what])
    found["topk_pool_multiplier"] = checked_pool(given["topk_pool_multiplier"], any(weights.values()))
    found["settle"] = checked_settle(given["settle"])
    if (points := given["approximate_starting_points"]) is not None:
        check_count("approximate_starting_points", points)
    found["approximate_starting_points"] = points
    std, draws = given["noise_std"], given["noise_T"]
    if found["instability"] != "noise" and (std is not None or draws is not None):
        warn_once("noise_std and noise_T are used by instability='noise' only: noise added to a feature measures "
                  "the noise")  # fmt: skip
    if std is not None and not (is_number(std) and 0 < std <= 1e9):
        raise ValueError(f"noise_std must be a number in (0, 1e9], got {std!r}")
    found["noise_std"] = 0.05 if std is None else float(std)
    found["noise_draws"] = found["noise_T"] = 5 if draws is None else check_count("noise_T", draws)
    return found


def support_rule(prune_support: Any) -> SupportRule:
    """`SupportRule.of`, and a FutureWarning where it goes by an earlier name; called by the constructor."""
    rule = SupportRule.of(prune_support)
    if prune_support is True or prune_support == "auto":
        told = f'prune_support={prune_support!r} is called "rule" now; False and "ask" prune nothing'
        warnings.warn(told, FutureWarning, stacklevel=4)
    return rule


def check_choices(mode: Any, instability: Any) -> None:
    """ValueError: not one of those that there are."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if instability not in (None, "views", "noise"):
        raise ValueError(f'instability must be "views", "noise" or None, got {instability!r}')


def checked_weights(w_repr: Any, w_density: Any, w_unc: Any) -> dict[str, float]:
    """Weights of the signals, 0 where nothing was said; ValueError out of -10..10."""
    found = {}
    for name, value in (("w_repr", w_repr), ("w_density", w_density), ("w_unc", w_unc)):
        value = 0.0 if value is None else value
        if not (is_number(value) and abs(value) <= 10):
            raise ValueError(f"{name} must be a number in -10..10, got {value!r}")
        found[name] = float(value)
    return {"representativeness": found["w_repr"], "density": found["w_density"], "uncertainty": found["w_unc"]}


def checked_pool(topk_pool_multiplier: Any, weighed: bool) -> float | None:
    """How many times the picks may be selected from; ValueError out of range, or without a weight to rank by."""
    if topk_pool_multiplier is None:
        return None
    if not (is_number(topk_pool_multiplier) and 1 <= topk_pool_multiplier < 1e9):
        raise ValueError(f"topk_pool_multiplier must be >= 1 or None, got {topk_pool_multiplier!r}")
    if not weighed:
        raise ValueError("topk_pool_multiplier needs a weight: w_repr, w_density or w_unc")
    return float(topk_pool_multiplier)


def checked_settle(settle: Any) -> float | None:
    """A share in [0, 1], or None; ValueError otherwise."""
    if settle is not None and not (is_number(settle) and 0 <= settle <= 1):
        raise ValueError(f"settle must be in [0, 1] or None, got {settle!r}")
    return None if settle is None else float(settle)


def warn_once(message: str) -> None:
    """A UserWarning at the place that made the sampler, the first time only."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, UserWarning, stacklevel=4)
