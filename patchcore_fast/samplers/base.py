"""The base of all samplers: `select` gives row numbers, `run` gives the rows in the form they came in."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from ..inputs import Features, as_rows
from ..inputs import as_tensor as as_tensor  # compat/ takes it from here
from ..kernels.ranks import Ranks, rows_of
from ..kernels.surroundings import undisturbed


class Sampler(ABC):
    """Chooses rows of a feature matrix.

    A subclass implements `_select`. After a run:

    Attributes
    ----------
    indices_ : [k] int64 CPU tensor, row numbers in selection order.
    radii_ : [k] float32 CPU tensor, distance of each pick to the earlier ones (in the projected space), or None.
    projection_ : [D, d] float32 CPU tensor, the random projection that distances were measured in, or None.
    progress : callable(picks made, k) or None; set it to follow a long selection.
    show_progress : of samplers with long stages before the picks: False (default) is quiet, None shows bars on a
        terminal, True always; see `patchcore_fast.progress.bar`. Set it.
    group : a torch.distributed process group whose ranks select together, or None; set it. Each rank then calls
        `select` with its own rows, some perhaps with none, and gets the picks of all, as numbers in the order of ranks.
    checkpoint : file in which the greedy samplers keep the picks so far, or None; set it. Where it is there, the
        selection goes on from it and ends with the picks of an uninterrupted one. It stays when all is picked: remove
        it when the result is safe.
    uses_positions : whether `select` also takes positions [N, 3], (image, row, column) of each row; the pipeline then
        hands them over.
    uses_embeddings : whether `select`, or `select_images`, also takes embeddings [I, E], one of each image in the order
        of their first rows; the pipeline hands them over to a sampler of rows that uses positions too.
    """

    uses_positions = False
    uses_embeddings = False
    takes_group = False  # whether `group` may be set

    def __init__(self) -> None:
        self.group: Any = None
        self.checkpoint: str | os.PathLike[str] | None = None
        self.ranks: Ranks | None = None
        self.indices_: Tensor | None = None
        self.radii_: Tensor | None = None
        self.projection_: Tensor | None = None
        self.progress: Callable[[int, int], None] | None = None
        self.show_progress: bool | None = False

    def select(self, features: Features) -> Tensor:
        """Row numbers of the selection.

        Parameters
        ----------
        features : [N, D] floating ndarray (memory-mapped is fine) or tensor.

        Returns
        -------
        [k] int64 CPU tensor, in selection order.

        Raises
        ------
        TypeError : not an array or tensor, or not floating.  ValueError : not 2-D, or rows that are not finite.
        """
        return self._choose(features)

    @undisturbed
    def _choose(self, features: Features, **where: Any) -> Tensor:
        """What `select` does, for samplers whose `select` takes more than features."""
        name = type(self).__name__
        self.indices_ = self.radii_ = self.projection_ = None
        rows = as_rows(name, features)
        if self.group is None:
            self.indices_ = self._select(rows, **where).cpu()
            return self.indices_
        if not self.takes_group:
            raise ValueError(f"{name}: selects in one process only; with a group use a greedy or random sampler")
        self.ranks = Ranks(name, self.group)
        try:
            with self.ranks.watched():
                self.indices_ = self._select(rows, **where).cpu()
        finally:
            self.ranks = None
        return self.indices_

    def _total(self, features: Tensor) -> int:
        """Rows of all ranks."""
        return features.shape[0] if self.ranks is None else sum(self.ranks.counts(features.shape[0]))

    @undisturbed
    def run(self, features: Features, *args: Any, **named: Any) -> Features:
        """The selected rows, in selection order, as what came in: ndarray or Tensor, same dtype and device.

        [N, D] -> [k, D]. Further arguments are those of `select`. Raises as `select`.
        """
        indices = self.select(features, *args, **named)
        if self.group is not None:
            ranks = Ranks(type(self).__name__, self.group)
            rows = as_rows(ranks.name, features)
            found = rows_of(ranks, rows, ranks.counts(rows.shape[0]), indices)
            return found.to(rows.device) if isinstance(features, Tensor) else found.numpy()
        if isinstance(features, Tensor):
            return features.detach()[indices.to(features.device)]
        return np.asarray(features[indices.numpy()])

    @abstractmethod
    def _select(self, features: Tensor) -> Tensor:
        """[N, D] checked tensor -> [k] int64."""


def is_number(value: Any) -> bool:
    """A Python or NumPy number; truth values are none."""
    return isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)


def check_percentage(percentage: float, whole: bool = False) -> float:
    """A share of rows strictly between 0 and 1; with `whole` 1, all rows, is one too."""
    if not is_number(percentage):
        raise TypeError(f"percentage must be a number in (0, 1), got {percentage!r}")
    if not (0 < percentage < 1 or (whole and percentage == 1)):
        raise ValueError(f"Percentage value not in (0, 1{']' if whole else ')'}. Got {percentage!r}")
    return float(percentage)


def check_count(what: str, value: int) -> int:
    """A positive integer."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{what} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be >= 1, got {value}")
    return int(value)


def check_seed(seed: int) -> int:
    """A seed that both torch and NumPy take."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0..2**32 - 1, got {seed}")
    return int(seed)
