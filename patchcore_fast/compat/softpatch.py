"""The samplers of SoftPatch (Jiang et al., NeurIPS 2022): `run` gives features and row numbers, and rows have weights.

One line in a script that uses SoftPatch, after its imports:

    from patchcore_fast.compat import softpatch; softpatch.install()

What is not said here is as in `compat.amazon`, whose samplers these extend.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import k_center_greedy
from ..kernels.checks import check_matrix, check_vector, raise_unusable
from ..samplers.base import Features
from ..samplers.measures import mean_distance
from . import amazon
from ._progress import progress_bar
from ._replace import Replacement, replace_all
from .amazon import IdentitySampler, RandomSampler

__all__ = [
    "ApproximateGreedyCoresetSampler",
    "GreedyCoresetSampler",
    "IdentitySampler",
    "RandomSampler",
    "WeightedGreedyCoresetSampler",
    "install",
]


class _Pairs(amazon.GreedyCoresetSampler):
    def run(self, features: Features) -> tuple[Features, np.ndarray]:  # type: ignore[override]  # as upstream
        """The selected rows as what came in, and their row numbers: [N, D] -> [k, D], [k] int64 ndarray."""
        rows = super().run(features)
        assert self.indices_ is not None
        return rows, self.indices_.numpy()


class GreedyCoresetSampler(_Pairs):
    """`compat.amazon.GreedyCoresetSampler`; `run` gives (features, indices)."""


class ApproximateGreedyCoresetSampler(_Pairs, amazon.ApproximateGreedyCoresetSampler):
    """`compat.amazon.ApproximateGreedyCoresetSampler`; `run` gives (features, indices).

    Attributes
    ----------
    sampling_weight : [N] weights >= 0 of the rows to come, numbers of any type, or None.

    The distance of a row to a pick counts times the row's weight. The mean distance to the starting rows, which
    decides the first pick and stays in force as a bound, does not, so a row of weight zero may be picked first but not
    later. Once every weighted distance is zero, row 0 is repeated, as upstream does. With weights other than 0 and
    powers of two, rounding may decide between rows that are bounded by the same mean distance.
    """

    sampling_weight: Tensor | np.ndarray | Sequence[float] | None = None

    def _compute_greedy_coreset_indices(self, features: Tensor) -> np.ndarray:
        """[N, d] reduced features -> [int(N * percentage)] int64 row numbers, in selection order."""
        name = type(self).__name__
        count = int(len(features) * self.percentage)
        features = features.detach().to(self.device or features.device)
        check_matrix(name, "features", features, empty=True)
        if not all(bool(part.isfinite().all()) for part in features.split(8192)):
            raise_unusable(name, "features", features)
        weight = None
        if self.sampling_weight is not None:
            try:
                weight = torch.as_tensor(self.sampling_weight, device=features.device).detach().double()
            except (TypeError, ValueError, RuntimeError):
                kind = type(self.sampling_weight).__name__
                raise TypeError(f"{name}: sampling_weight must be numbers [{len(features)}], got {kind}") from None
            weight = check_vector(name, "sampling_weight", weight, len(features), features.device)
        points = min(self.number_of_starting_points, len(features))
        rows = np.random.choice(len(features), points, replace=False)  # noqa: NPY002  (upstream's generator)
        if count == 0:
            return np.empty(0, np.int64)
        bound = mean_distance(features, features[torch.from_numpy(rows).to(features.device)])
        first = int((bound == bound.max()).nonzero()[0])
        if weight is not None:
            # min(mean, w d) = w min(mean / w, d). Where w = 0 it is zero from the first pick on, whatever the bound.
            bound = torch.where(weight > 0, bound / weight, bound)
        with progress_bar("Subsampling...", count) as follow:
            result = k_center_greedy(
                features, count, start=first, initial_min_dist=bound, weights=weight, progress=self.progress or follow
            )
        self.radii_ = result.radii.cpu()
        used_up = result.radii == 0
        if weight is not None:
            used_up |= weight[result.indices] == 0
            used_up[0] = False
        return result.indices.masked_fill(used_up, 0).cpu().numpy()


class WeightedGreedyCoresetSampler(ApproximateGreedyCoresetSampler):
    """The same with a method to set the weights; what SoftPatch's model makes of the sampler it is given.

    Upstream hands its fourth argument on as the third: the number of starting rows is
    `dimension_to_project_features_to` (128 unless given), `number_of_starting_points` has no effect, and the
    projection is 128 wide. So it is here, because results depend on it. The attributes of these names say what is in
    force and can be set.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str | int | None = None,
        number_of_starting_points: int = 10,
        dimension_to_project_features_to: int = 128,
    ) -> None:
        super().__init__(percentage, device, number_of_starting_points=dimension_to_project_features_to)

    def set_sampling_weight(self, sampling_weight: Tensor | np.ndarray | Sequence[float] | None) -> None:
        """sampling_weight : [N], or None for no weights; checked in the next run.

        SoftPatch gives 0 to the patches it takes for noise and 1 to all others.
        """
        self.sampling_weight = sampling_weight


def install(*modules: ModuleType) -> Replacement:
    """Put the five samplers into modules that have upstream's names, in place of them.

    modules : without any, those of `sampler` and `src.sampler` that are imported: SoftPatch's main.py and its model
        import the same file under both names.

    Returns
    -------
    Replacement : `undo()` puts the originals back; as a context manager it does so at the end of the block.

    Raises
    ------
    ImportError : SoftPatch is not imported yet.  AttributeError : a module lacks a name; nothing is changed.
    """
    classes: dict[str, Any] = {name: globals()[name] for name in __all__ if name.endswith("Sampler")}
    mark = "WeightedGreedyCoresetSampler"  # other repositories have a module called sampler, too
    loaded = [sys.modules.get(name) for name in ("sampler", "src.sampler")]
    targets = list(modules) or [module for module in loaded if module is not None and hasattr(module, mark)]
    if not targets:
        raise ImportError("install: neither sampler nor src.sampler of SoftPatch is imported; import it first")
    return replace_all(targets, classes)
