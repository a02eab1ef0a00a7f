"""Settings of the search for the neighbours of a patch in the bank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from patchcore_fast.config.base import Settings, setting

INDEXES = ("exact", "faiss-flat", "faiss-ivfpq")


@dataclass(frozen=True)
class SearchSettings(Settings):
    """Which rows a patch is compared with.

    Parameters
    ----------
    index : how neighbours are searched, "exact" (ours), "faiss-flat" or "faiss-ivfpq"; see `search.build_index`.
    neighbours : k of the k-NN score of a patch, the mean over its k nearest bank rows.
    """

    group: ClassVar[str] = "search"
    index: str = setting("exact", 'how neighbours are found; "exact" is ours, "faiss-ivfpq" for large banks',
                         choices=INDEXES)  # fmt: skip
    neighbours: int = setting(1, "bank rows that a patch is compared with", least=1, most=1_024, metavar="K")
