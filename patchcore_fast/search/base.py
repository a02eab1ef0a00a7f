"""What every search gives, our own, and the step that turns candidates into neighbours at exact distances."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch

from patchcore_fast.config import INDEXES as INDEXES
from patchcore_fast.kernels import PreparedBank, knn, prepare
from patchcore_fast.kernels.exact import paired_squared, root
from patchcore_fast.kernels.surroundings import undisturbed

_BLOCK_BYTES = 16 << 20  # differences of queries and candidates held at a time


class SearchIndex(Protocol):
    """A search over the rows of one bank [M, D].

    Attributes
    ----------
    kind : one of INDEXES.
    """

    kind: str

    def search(self, query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Euclidean distances [Q, k] float32, ascending, and bank rows [Q, k] int64 of query [Q, D], on its device.

        The distance of a row that is named is always the true one (float64, rounded once); an approximate search
        may name other rows than the nearest, so its distances are never below the exact search's.
        """

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """What a bank file must keep besides the rows, by name; empty where the rows are all that is needed."""


class ExactSearch:
    """`patchcore_fast.kernels.knn` in a prepared bank: the neighbours of float64 brute force.

    Parameters
    ----------
    bank : [M, D] float16, bfloat16 or float32; kept, not copied.
    """

    kind = "exact"

    def __init__(self, bank: torch.Tensor) -> None:
        """The bank is prepared at the first search."""
        self.bank = bank

    @cached_property
    def prepared(self) -> PreparedBank:
        """The bank, measured and packed once."""
        return prepare(self.bank)

    def search(self, query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `SearchIndex.search`."""
        return knn(query, self.prepared, k)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Empty: the rows are the index."""
        return {}


@undisturbed
def settle(
    query: torch.Tensor, bank: torch.Tensor, candidates: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest among each query's candidates, at exact distances, ties to the lowest row.

    The k are chosen by float32 differences (no expanded squares, so nothing cancels), their distances taken from
    float64: the same values that `knn` gives for these rows.

    Parameters
    ----------
    query : [Q, D].  bank : [M, D], same device.  candidates : [Q, C] int64, C >= k; -1 is none.  k : 1..C.

    Returns
    -------
    distances [Q, k] float32, ascending; inf where there was no candidate.  rows [Q, k] int64, there -1.
    """
    if candidates.ndim != 2 or len(candidates) != len(query) or candidates.dtype != torch.int64:
        raise ValueError(
            f"settle: candidates must be [{len(query)}, C] int64, got {tuple(candidates.shape)} {candidates.dtype}"
        )
    if not 1 <= k <= candidates.shape[1]:
        raise ValueError(f"settle: k must lie in 1..{candidates.shape[1]}, the candidates there are, got {k}")
    count, width = candidates.shape
    # Ascending rows and stable sorts: of equal distances the lowest row comes first, as in `knn`.
    candidates = candidates.sort(dim=1).values
    chosen = torch.empty(count, k, dtype=torch.int64, device=query.device)
    step = max(1, _BLOCK_BYTES // (4 * width * query.shape[1]))
    for lo in range(0, count, step):
        rows = candidates[lo : lo + step]
        difference = query[lo : lo + step, None].float() - bank[rows.clamp(min=0)].float()
        near = difference.square().sum(dim=2).masked_fill(rows < 0, torch.inf)
        chosen[lo : lo + step] = rows.gather(1, near.sort(dim=1, stable=True).indices[:, :k])
    chosen = chosen.sort(dim=1).values
    of = torch.arange(count, device=query.device).repeat_interleave(k)
    squared = paired_squared(query, of, bank, chosen.clamp(min=0).reshape(-1)).view(count, k)
    squared, order = squared.masked_fill(chosen < 0, torch.inf).sort(dim=1, stable=True)
    return root(squared).float(), chosen.gather(1, order)
