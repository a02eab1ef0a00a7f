"""Samplers by name, and what is written down of one that was given as an object."""

from __future__ import annotations

import inspect
import reprlib
from typing import Any

import numpy as np
import torch

from ..config.selection import LIST, PARAMETERS, TEXT, is_plain
from .base import Sampler
from .basic import IdentitySampler, RandomSampler
from .elfs import ELFSCoresetSampler
from .greedy import ApproximateGreedyCoresetSampler, GreedyCoresetSampler

NAMED: dict[str, type[Sampler]] = {
    "greedy": GreedyCoresetSampler,
    "elfs": ELFSCoresetSampler,
    "approximate": ApproximateGreedyCoresetSampler,
    "random": RandomSampler,
    "identity": IdentitySampler,
}


def make_sampler(
    name: str,
    ratio: float = 0.01,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    projection: int | None = 128,
    prune_support: str = "none",
) -> Sampler:
    """A sampler by its short name: "greedy", "elfs", "approximate", "random" or "identity".

    ratio : share of rows, in (0, 1); not used by "identity".  projection : width of the random projection, or None.
    prune_support : of "elfs": "none", "ask" or "rule".

    Raises
    ------
    ValueError : unknown name or ratio out of range.
    """
    if name == "greedy":
        return GreedyCoresetSampler(ratio, device, projection, seed=seed)
    if name == "elfs":
        pruning = False if prune_support == "none" else prune_support
        return ELFSCoresetSampler(ratio, device, projection, seed=seed, prune_support=pruning)
    if name == "approximate":
        return ApproximateGreedyCoresetSampler(ratio, device, dimension_to_project_features_to=projection, seed=seed)
    if name == "random":
        return RandomSampler(ratio, seed)
    if name == "identity":
        return IdentitySampler()
    raise ValueError(f"make_sampler: name must be greedy, elfs, approximate, random or identity, got {name!r}")


def describe_sampler(sampler: Any) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a sampler of any class, as the settings of a bank record them.

    The name is that of `make_sampler` for its very classes, else module and class. The parameters are those of the
    constructor that the object has public attributes for (scikit-learn's convention): texts, numbers and short flat
    lists as they are, all else by its repr, cut to a length.
    """
    kind = type(sampler)
    name = next((n for n, c in NAMED.items() if c is kind), f"{kind.__module__}.{kind.__qualname__}"[-TEXT:])
    name = getattr(kind, "registered", name)
    try:
        wanted = [p for p in inspect.signature(kind).parameters if not p.startswith("_")]
    except (TypeError, ValueError):  # a class without a signature
        wanted = []
    found = {parameter: _plain(getattr(sampler, parameter)) for parameter in wanted if hasattr(sampler, parameter)}
    return name, dict(list(found.items())[:PARAMETERS])


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple) and len(value) <= LIST and all(map(is_plain, value)):
        return list(value)
    if is_plain(value):
        return value
    if callable(getattr(value, "select", None)):  # a sampler inside of a sampler
        name, parameters = describe_sampler(value)
        text = f"{name}({', '.join(f'{k}={v!r}' for k, v in parameters.items())})"
    else:
        text = _REPR.repr(value)
    return text if len(text) <= TEXT else text[: TEXT - 4] + " ..."


_REPR = reprlib.Repr()  # shows the first items of what is long, instead of making a text of all of them
_REPR.maxother = _REPR.maxstring = TEXT
