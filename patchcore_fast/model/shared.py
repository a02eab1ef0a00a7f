"""Rows of which every rank has those of some images, as if one process had them all."""

from __future__ import annotations

import torch

from patchcore_fast.kernels.ranks import Ranks
from patchcore_fast.model.collect import FeatureRows, Rows


class RankRows(Rows):
    """The rows of all ranks, numbered in the order of ranks. All ranks make one, and make the same calls.

    Parameters
    ----------
    local : the rows of this rank, perhaps none.

    Raises
    ------
    RankError : another rank has died.
    """

    def __init__(self, local: Rows, ranks: Ranks) -> None:
        self.ranks, self._ranks = ranks, ranks
        grids = torch.tensor(local.grids, dtype=torch.int64).view(-1, 2)
        counts = ranks.counts(len(grids))
        self.grids = [(int(h), int(w)) for h, w in ranks.gather(grids, counts).tolist()]
        self.first = sum(counts[: ranks.rank])
        self._rows = ranks.counts(local.total)
        told = ranks.tell((local.columns, local.dtype, local.sizes) if local.total else None)
        kinds = [(columns, dtype) for columns, dtype, _ in filter(None, told)]
        self.sizes = {grid: size for _, _, sizes in reversed(list(filter(None, told))) for grid, size in sizes.items()}
        self._columns: int
        self._dtype: torch.dtype
        self._columns, self._dtype = kinds[0] if kinds else (local.columns, local.dtype)
        if not local.total:  # no row says how wide it is
            local = FeatureRows.of(torch.empty(0, self._columns, dtype=self._dtype), [])
        self._local = local

    @property
    def local(self) -> Rows:
        """The rows of this rank."""
        return self._local

    @property
    def first_row(self) -> int:
        """Number of the first row of this rank."""
        return sum(self._rows[: self._ranks.rank])

    @property
    def columns(self) -> int:
        """D."""
        return self._columns

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows of every rank."""
        return self._dtype

    @property
    def features(self) -> torch.Tensor:
        """The rows of this rank."""
        return self._local.features

    def read(self, low: int, high: int) -> torch.Tensor:
        """Of this rank."""
        return self._local.read(low, high)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """Rows of all ranks, by their common numbers: [k] -> [k, D], on every rank."""
        ends = torch.tensor(self._rows).cumsum(0)
        owner = torch.searchsorted(ends, indices, right=True)
        mine = indices[owner == self._ranks.rank] - self.first_row
        found = self._ranks.gather(self._ranks.agree(lambda: self._local.take(mine)))
        order = torch.empty_like(indices)
        order[owner.argsort(stable=True)] = torch.arange(len(indices))
        return found[order]


def all_rows(local: Rows, ranks: Ranks | None) -> Rows:
    """The rows of all ranks, or those of this process where it is alone."""
    return local if ranks is None else RankRows(local, ranks)
