"""Samplers: one method to choose rows (`select`), one to get them (`run`)."""

from __future__ import annotations

import torch

from .base import Sampler
from .basic import IdentitySampler, PrecomputedSampler, RandomSampler
from .elfs import ELFSCoresetSampler
from .greedy import ApproximateGreedyCoresetSampler, GreedyCoresetSampler
from .two_level import SupportedImages, TwoLevelSampler

__all__ = [
    "ApproximateGreedyCoresetSampler",
    "ELFSCoresetSampler",
    "GreedyCoresetSampler",
    "IdentitySampler",
    "PrecomputedSampler",
    "RandomSampler",
    "Sampler",
    "SupportedImages",
    "TwoLevelSampler",
    "make_sampler",
]


def make_sampler(
    name: str,
    ratio: float = 0.01,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    projection: int | None = 128,
) -> Sampler:
    """A sampler by its short name: "greedy", "elfs", "approximate", "random" or "identity".

    ratio : share of rows, in (0, 1); not used by "identity".  projection : width of the random projection, or None.

    Raises
    ------
    ValueError : unknown name or ratio out of range.
    """
    if name == "greedy":
        return GreedyCoresetSampler(ratio, device, projection, seed=seed)
    if name == "elfs":
        return ELFSCoresetSampler(ratio, device, projection, seed=seed)
    if name == "approximate":
        return ApproximateGreedyCoresetSampler(ratio, device, dimension_to_project_features_to=projection, seed=seed)
    if name == "random":
        return RandomSampler(ratio, seed)
    if name == "identity":
        return IdentitySampler()
    raise ValueError(f"make_sampler: name must be greedy, elfs, approximate, random or identity, got {name!r}")
