"""Samplers without geometry: all rows, random rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .base import Features, Sampler, check_percentage, check_seed


class IdentitySampler(Sampler):
    """Keeps everything."""

    takes_group = True

    def _select(self, features: Tensor) -> Tensor:
        return torch.arange(self._total(features))

    def run(self, features: Features) -> Features:
        """The features themselves, not a copy; with a group those of all ranks."""
        if self.group is not None:
            return super().run(features)
        self.select(features)
        return features.detach() if isinstance(features, Tensor) and features.requires_grad else features


class RandomSampler(Sampler):
    """int(N * percentage) rows, uniformly without replacement; the draw of np.random.seed(seed) and np.random.choice.

    Parameters
    ----------
    percentage : share of rows, in (0, 1).
    seed : 0..2**32 - 1; no global random state is touched.
    """

    takes_group = True

    def __init__(self, percentage: float, seed: int = 0) -> None:
        super().__init__()
        self.percentage = check_percentage(percentage)
        self.seed = check_seed(seed)

    def _select(self, features: Tensor) -> Tensor:
        n = self._total(features)
        random = np.random.RandomState(self.seed)
        return torch.from_numpy(random.choice(n, int(n * self.percentage), replace=False).astype(np.int64))
