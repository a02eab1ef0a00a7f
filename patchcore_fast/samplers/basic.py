"""Samplers without geometry: all rows, random rows, rows chosen earlier."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..npy import read_npy
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


class PrecomputedSampler(Sampler):
    """A selection made earlier: row numbers, or the .npy file that `patchcore-fast select --indices` wrote.

    Parameters
    ----------
    indices : path of a .npy file with integers [k], or the integers themselves.

    Raises
    ------
    DataError : the file is missing, damaged or holds something else.
    """

    takes_group = True

    def __init__(self, indices: str | os.PathLike[str] | Sequence[int] | np.ndarray | Tensor) -> None:
        super().__init__()
        source = "indices"
        if isinstance(indices, (str, os.PathLike)):
            source = str(indices)
            try:
                indices = read_npy(indices)
            except (OSError, DataError) as error:
                raise DataError(f"PrecomputedSampler: {source} is not a readable .npy file: {error}") from error
        try:
            array = indices.cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
        except ValueError as error:
            raise DataError(f"PrecomputedSampler: {source} must hold integers [k]: {error}") from error
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise DataError(
                f"PrecomputedSampler: {source} must hold integers [k], got {array.dtype} of shape {array.shape}"
            )
        if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**63:
            raise DataError(
                f"PrecomputedSampler: {source} holds {int(array.min())}..{int(array.max())}, no row numbers"
            )
        self._rows = torch.from_numpy(array.astype(np.int64))

    def _select(self, features: Tensor) -> Tensor:
        total = self._total(features)
        if self._rows.numel() and int(self._rows.max()) >= total:
            raise ValueError(
                f"PrecomputedSampler: row {int(self._rows.max())} was selected, but features have "
                f"{total} rows; the selection was made on other features"
            )
        return self._rows.clone()
