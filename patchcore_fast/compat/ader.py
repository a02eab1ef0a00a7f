"""The samplers of ADer's `model.patchcore`: amazon's without the argument `device`; see `compat.amazon`.

    from patchcore_fast.compat import ader; ader.install()

before the model is made. ADer moves features to the current CUDA device; these select there if there is one, and else
where the features are. ADer's other copy, which nothing in it imports, has amazon's signatures:
amazon.install("model.patchcore_utils.sampler").
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

from . import amazon
from ._replace import Replacement, replace_all
from .amazon import IdentitySampler, RandomSampler

__all__ = [
    "ApproximateGreedyCoresetSampler",
    "GreedyCoresetSampler",
    "IdentitySampler",
    "RandomSampler",
    "install",
]


def _device() -> torch.device | None:
    return torch.device("cuda") if torch.cuda.is_available() else None


class GreedyCoresetSampler(amazon.GreedyCoresetSampler):
    """`compat.amazon.GreedyCoresetSampler(percentage, dimension_to_project_features_to)`."""

    def __init__(self, percentage: float, dimension_to_project_features_to: int = 128) -> None:
        super().__init__(percentage, _device(), dimension_to_project_features_to)


class ApproximateGreedyCoresetSampler(amazon.ApproximateGreedyCoresetSampler):
    """`compat.amazon.ApproximateGreedyCoresetSampler` without `device`."""

    def __init__(
        self, percentage: float, number_of_starting_points: int = 10, dimension_to_project_features_to: int = 128
    ) -> None:
        super().__init__(percentage, _device(), number_of_starting_points, dimension_to_project_features_to)


def install(module: ModuleType | str = "model.patchcore") -> Replacement:
    """Put the four samplers into ADer's module; as `compat.amazon.install`.

    ADer's PatchCore has a sampler for a default argument, made when the module is imported: that is replaced, too.
    """
    target = importlib.import_module(module) if isinstance(module, str) else module
    original = getattr(target, "ApproximateGreedyCoresetSampler", None)
    replacement = replace_all([target], {name: globals()[name] for name in __all__ if name.endswith("Sampler")})
    init = getattr(getattr(target, "PatchCore", None), "__init__", None)
    if defaults := getattr(init, "__defaults__", None):
        replacement.set(init, "__defaults__", tuple(_ours(d) if type(d) is original else d for d in defaults))
    return replacement


def _ours(theirs: Any) -> ApproximateGreedyCoresetSampler:
    return ApproximateGreedyCoresetSampler(
        theirs.percentage, theirs.number_of_starting_points, theirs.dimension_to_project_features_to
    )
