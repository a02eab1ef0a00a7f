"""Settings of the search for the neighbours of a patch in the bank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from patchcore_fast.config.base import Settings, setting

FEW = 3  # neighbours, the default: banks of few shots have fewer rows, and should not be refused for it
INDEXES = ("exact", "faiss-flat", "faiss-ivfpq")


@dataclass(frozen=True)
class SearchSettings(Settings):
    """Which rows a patch is compared with.

    Parameters
    ----------
    index : how neighbours are searched, "exact" (ours), "faiss-flat" or "faiss-ivfpq"; see `search.build_index`.
    neighbours : k of the k-NN score of a patch, the mean over its k nearest bank rows; of a bank with fewer than three,
        all of them. A bank that has fewer rows than a larger k is refused.
    price : c of the priced distance sqrt(d_j^2 + (c s_j)^2) to a bank row that lies s_j from the nearest training row
        of another image; by it rows are neighbours and patches are scored (docs/price.md). 0: distances alone.
    """

    group: ClassVar[str] = "search"
    index: str = setting("exact", 'how neighbours are found; "exact" is ours, "faiss-ivfpq" for large banks',
                         choices=INDEXES)  # fmt: skip
    neighbours: int = setting(3, "bank rows that a patch is compared with", least=1, most=1_024, metavar="K")
    price: float = setting(
        0.25, "how much farther away a bank row counts that no other training image supports; 0: not at all",
        parse=float, metavar="C",
    )  # fmt: skip

    @property
    def least_rows(self) -> int:
        """Rows that a bank must have: as many as neighbours, but one or two will do for up to three."""
        return 1 if self.neighbours <= FEW else self.neighbours

    def _check(self) -> None:
        if not 0 <= self._real("price") <= 1_000:
            self._wrong("price", f"must lie between 0 and 1000, got {self.price}")
