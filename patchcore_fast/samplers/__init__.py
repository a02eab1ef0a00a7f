"""Samplers: one method to choose rows (`select`), one to get them (`run`)."""

from __future__ import annotations

from .base import Sampler
from .basic import IdentitySampler, RandomSampler
from .elfs import ELFSCoresetSampler
from .elfs_images import ELFSImageSampler
from .greedy import ApproximateGreedyCoresetSampler, GreedyCoresetSampler
from .lowest_density import LowestDensitySampler
from .named import describe_sampler, make_sampler, sampler_of
from .precomputed import PrecomputedSampler
from .two_level import SupportedImages, TwoLevelSampler

__all__ = [
    "ApproximateGreedyCoresetSampler",
    "ELFSCoresetSampler",
    "ELFSImageSampler",
    "GreedyCoresetSampler",
    "IdentitySampler",
    "LowestDensitySampler",
    "PrecomputedSampler",
    "RandomSampler",
    "Sampler",
    "SupportedImages",
    "TwoLevelSampler",
    "describe_sampler",
    "make_sampler",
    "sampler_of",
]
