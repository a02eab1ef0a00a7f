"""The highest patch scores of an image alone, exactly: what some bank rows say excludes most patches (docs/search.md).

The k nearest of some bank rows are no nearer than the k nearest of all. So a search in a few rows bounds the score of
every patch from above, and a patch whose bound lies below the highest score of its image is not searched for in all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from patchcore_fast.kernels import PreparedBank, knn, prepare
from patchcore_fast.kernels.surroundings import undisturbed

_STEPS = (64, 16)  # bounds come from every 64th bank row, then from every 16th for the patches that are left
_LEAST = 512  # rows that are worth a search of their own
_FIRST = 16  # patches of an image that are searched for at once beside those wanted: they cost hardly more than one


class HighestSearch:
    """A search for the patches of each image that have its highest scores.

    Parameters
    ----------
    bank : [M, D], all rows. A sixteenth and a 64th of them are copied and prepared too.
    """

    def __init__(self, bank: PreparedBank) -> None:
        """Prepare the rows that bounds come from."""
        self.bank = bank
        self._some = [
            prepare(bank.rows[::step].contiguous(), backend=bank.backend, prune="partial")
            for step in _STEPS
            if len(bank) >= step * _LEAST
        ]

    @undisturbed
    def search(
        self, query: Tensor, k: int, images: int, count: int, score: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Distances [Q, k] float32 and rows [Q, k] int64 as of `knn`, of those patches that may be among an image's
        `count` highest scores; of all others zeros.

        Parameters
        ----------
        query : [Q, D], the patches of one image after the other, as many of each.  k : 1..M.
        images : among which they are divided.  count : of the highest scores, 1..Q / images.
        score : distances [N, k] to scores [N]: a mean of the k of a function that does not fall.

        Raises
        ------
        ValueError : patches that cannot be divided so, a count out of range; what `knn` says of query and k.
        """
        patches = len(query) // max(images, 1)
        if images < 1 or patches * images != len(query) or not 1 <= count <= patches:
            raise ValueError(
                f"HighestSearch: {len(query)} patches of {images} images, of each the {count} highest: as many "
                "patches of each image are wanted, and at least so many"
            )
        dist = torch.zeros(len(query), k, dtype=torch.float32, device=query.device)
        near = torch.zeros(len(query), k, dtype=torch.int64, device=query.device)
        # Of each patch: its score, once it is known; before, what it cannot exceed. The latter is -inf afterwards.
        known = torch.full((images, patches), -torch.inf, dtype=torch.float64, device=query.device)
        bound = torch.full_like(known, torch.inf)
        left = torch.arange(len(query), device=query.device)
        offset = torch.arange(images, device=query.device)[:, None] * patches
        # Two means of k may be summed in different orders: each is off by less than k + 1 units in the last place.
        slack = 1 + (k + 1) * 2.0**-22
        for some in self._some:
            if k > len(some):
                continue
            bound.view(-1)[left] = score(knn(query[left], some, k)[0]).double() * slack
            top = bound.topk(min(patches, count + _FIRST), dim=1)
            self._settle((top.indices + offset)[top.values > -torch.inf], query, k, score, dist, near, known, bound)
            least = known.topk(count, dim=1).values[:, -1:]
            left = (bound >= least).view(-1).nonzero().squeeze(1)
            if not len(left):
                return dist, near
        self._settle(left, query, k, score, dist, near, known, bound)
        return dist, near

    def _settle(
        self, which: Tensor, query: Tensor, k: int, score: Callable[[Tensor], Tensor], dist: Tensor, near: Tensor,
        known: Tensor, bound: Tensor,
    ) -> None:  # fmt: skip
        """Search for these patches [N] in all rows."""
        dist[which], near[which] = knn(query[which], self.bank, k)
        known.view(-1)[which] = score(dist[which]).double()
        bound.view(-1)[which] = -torch.inf
