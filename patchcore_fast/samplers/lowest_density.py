"""The rows of lowest density, and nothing else: what density alone chooses."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scores import rarity
from .base import Sampler, check_count, check_percentage, check_seed
from .projection import project, random_projection


class LowestDensitySampler(Sampler):
    """Greedy by lowest density alone: the int(N * percentage) rows of largest mean distance to their nearest anchors.

    The rarest row comes first, of equal ones the lowest. It covers nothing: rare rows may all lie in one place. It is
    here to be compared with.

    Parameters
    ----------
    percentage : share of rows, in (0, 1).
    device : where to compute; None: where the features are.
    k_density : anchors whose distances are averaged (at most one less than there are anchors).
    anchors : random rows that stand for all, at least 2 (at most N are used).
    seed : of the anchors and the projection.
    dimension_to_project_features_to : width of the random projection, or None for none. Skipped where D equals it.

    Attributes
    ----------
    scores_ : "rarity" -> [N] float32, see `scores.rarity`.
    """

    def __init__(
        self,
        percentage: float,
        device: torch.device | str | None = None,
        *,
        k_density: int = 10,
        anchors: int = 1000,
        seed: int = 0,
        dimension_to_project_features_to: int | None = 128,
    ) -> None:
        super().__init__()
        self.percentage = check_percentage(percentage)
        self.device = None if device is None else torch.device(device)
        self.k_density, self.anchors = check_count("k_density", k_density), check_count("anchors", anchors)
        if self.anchors < 2:
            raise ValueError(f"anchors must be >= 2, a row's own does not count; got {anchors}")
        self.seed = check_seed(seed)
        if dimension_to_project_features_to is not None:
            check_count("dimension_to_project_features_to", dimension_to_project_features_to)
        self.dimension_to_project_features_to = dimension_to_project_features_to
        self.scores_: dict[str, Tensor] = {}

    def _select(self, features: Tensor) -> Tensor:
        self.scores_ = {}
        n, width = features.shape[0], self.dimension_to_project_features_to
        if (count := int(n * self.percentage)) == 0:
            return torch.empty(0, dtype=torch.int64)
        if width is not None and width != features.shape[1]:
            self.projection_ = random_projection(features.shape[1], width, self.seed)
            features = project(features, self.projection_, self.device or features.device)
        k = min(self.k_density, min(self.anchors, n) - 1)
        found = rarity(
            features, k=k, anchors=self.anchors, seed=self.seed, device=self.device, progress=self.show_progress
        )
        self.scores_["rarity"] = found
        return found.argsort(descending=True, stable=True)[:count]
