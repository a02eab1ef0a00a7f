"""The samplers of amazon-science/patchcore-inspection, and of the many repositories that carry copies of them.

One line in a script that uses the original:

    from patchcore_fast.compat import amazon; amazon.install()

puts these classes into the imported `patchcore.sampler`. Or import the classes from here in place of it.

With equal seeds of torch and NumPy the coreset is upstream's, as far as upstream's own rounding decides nothing:
distances there are float32 in expanded form, here they are exact. The exact sampler needs no N x N matrix.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import KCenterResult, k_center_greedy
from ..kernels.surroundings import undisturbed
from ..samplers.base import Features, Sampler, check_count, check_percentage
from ..samplers.measures import farthest_from_mean, mean_distance
from ..samplers.projection import project
from ._progress import progress_bar
from ._replace import Replacement, replace_all

__all__ = [
    "ApproximateGreedyCoresetSampler",
    "GreedyCoresetSampler",
    "IdentitySampler",
    "RandomSampler",
    "install",
]


class IdentitySampler:
    """Keeps everything."""

    def run(self, features: Features) -> Features:
        """The features themselves, whatever they are."""
        return features


class RandomSampler(Sampler):
    """int(N * percentage) rows, drawn by np.random.choice without replacement from NumPy's global generator."""

    def __init__(self, percentage: float) -> None:
        super().__init__()
        check_percentage(percentage)
        self.percentage = percentage  # as it is: int(N * percentage) depends on its type

    def _select(self, features: Tensor) -> Tensor:
        n = features.shape[0]
        rows = np.random.choice(n, int(n * self.percentage), replace=False)  # noqa: NPY002  (upstream's generator)
        return torch.from_numpy(rows.astype(np.int64))


class GreedyCoresetSampler(Sampler):
    """Farthest-point traversal from the row farthest from the mean, on randomly projected features.

    Upstream starts at the row whose distances to all rows have the largest norm: the sum of squared distances to all
    rows is N |x - mean|^2 plus a constant.

    Parameters
    ----------
    percentage : share of rows to keep, in (0, 1); the count is int(N * percentage).
    device : where to select; None: where the features are.
    dimension_to_project_features_to : width of the projection; none takes place where D equals it.

    After a run: `indices_`, `radii_`, `projection_` as in `patchcore_fast.samplers.Sampler`.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str | int | None = None,
        dimension_to_project_features_to: int = 128,
    ) -> None:
        super().__init__()
        check_percentage(percentage)
        self.percentage = percentage  # as it is: int(N * percentage) depends on its type
        self.device = None if device is None else torch.device(device)
        self.dimension_to_project_features_to = check_count(
            "dimension_to_project_features_to", dimension_to_project_features_to
        )

    def _select(self, features: Tensor) -> Tensor:
        # Two steps with upstream's names, because forks call or override them.
        rows = self._compute_greedy_coreset_indices(self._reduce_features(features))
        return torch.as_tensor(np.asarray(rows), dtype=torch.int64)

    def _store_type(self, features: Features) -> None:
        """Remember what came in; for forks whose own `run` calls it."""
        self.features_is_numpy = isinstance(features, np.ndarray)
        if isinstance(features, Tensor):
            self.features_device = features.device

    def _restore_type(self, features: Tensor) -> Features:
        """A tensor as what came in."""
        return features.cpu().numpy() if self.features_is_numpy else features.to(self.features_device)

    @undisturbed
    def _reduce_features(self, features: Tensor) -> Tensor:
        """[N, D] -> [N, d] on `device`, by a torch.nn.Linear without bias drawn from torch's global generator."""
        if features.shape[1] == self.dimension_to_project_features_to:
            return features
        linear = torch.nn.Linear(features.shape[1], self.dimension_to_project_features_to, bias=False)
        self.projection_ = linear.weight.detach().cpu().t()
        return project(features.detach(), self.projection_, self.device or features.device)

    @undisturbed
    def _compute_greedy_coreset_indices(self, features: Tensor) -> np.ndarray:
        """[N, d] reduced features -> [int(N * percentage)] int64 row numbers, in selection order."""
        count = int(len(features) * self.percentage)
        features = features.detach().to(self.device or features.device)
        begin = self._begin(features) if len(features) else {}  # upstream draws even if nothing is selected in the end
        if count == 0:
            return np.empty(0, np.int64)
        result = self._greedy(features, count, begin)
        self.radii_ = result.radii.cpu()
        # Upstream may pick a row again. Once every row coincides with a pick, its maximum is the first of N zeros.
        return result.indices.masked_fill(result.radii == 0, 0).cpu().numpy()

    def _begin(self, features: Tensor) -> dict[str, Any]:
        """Where `k_center_greedy` begins."""
        return {"start": farthest_from_mean(features)}

    def _greedy(self, features: Tensor, count: int, begin: dict[str, Any]) -> KCenterResult:
        return k_center_greedy(features, count, progress=self.progress, **begin)

    @staticmethod
    def _compute_batchwise_differences(matrix_a: Tensor, matrix_b: Tensor) -> Tensor:
        """[A, d], [B, d] -> [A, B] Euclidean distances, for forks that call it; no sampler here does."""
        return torch.cdist(matrix_a, matrix_b, compute_mode="donot_use_mm_for_euclid_dist")


class ApproximateGreedyCoresetSampler(GreedyCoresetSampler):
    """Farthest-point traversal from the mean distance to a few random rows; upstream's usual choice.

    That mean stays in force as a bound on each row's distance, and the random rows are not selected by it. They are
    drawn by np.random.choice from NumPy's global generator, after the projection.

    Parameters
    ----------
    As `GreedyCoresetSampler`, and number_of_starting_points : at most N are drawn.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str | int | None = None,
        number_of_starting_points: int = 10,
        dimension_to_project_features_to: int = 128,
    ) -> None:
        super().__init__(percentage, device, dimension_to_project_features_to)
        self.number_of_starting_points = check_count("number_of_starting_points", number_of_starting_points)

    def _begin(self, features: Tensor) -> dict[str, Any]:
        points = min(self.number_of_starting_points, len(features))
        rows = np.random.choice(len(features), points, replace=False)  # noqa: NPY002  (upstream's generator)
        return {"initial_min_dist": mean_distance(features, features[torch.from_numpy(rows).to(features.device)])}

    def _greedy(self, features: Tensor, count: int, begin: dict[str, Any]) -> KCenterResult:
        with progress_bar("Subsampling...", count) as follow:
            return k_center_greedy(features, count, progress=self.progress or follow, **begin)


def install(module: ModuleType | str = "patchcore.sampler") -> Replacement:
    """Put the four samplers into a module that has upstream's names, in place of them.

    module : the module or its dotted name; a fork's may be called "model.patchcore_utils.sampler" or otherwise.

    Returns
    -------
    Replacement : `undo()` puts the originals back; as a context manager it does so at the end of the block.

    Objects that were made before stay what they are.

    Raises
    ------
    ImportError : the module cannot be imported.  AttributeError : it lacks one of the names; nothing is changed.
    """
    target = importlib.import_module(module) if isinstance(module, str) else module
    return replace_all([target], {name: globals()[name] for name in __all__ if name.endswith("Sampler")})
