"""How the neighbours of patches are found in a memory bank: one interface, our exact search or one of faiss's."""

from __future__ import annotations

from patchcore_fast.search.base import INDEXES, ExactSearch, SearchIndex, settle
from patchcore_fast.search.highest import HighestSearch
from patchcore_fast.search.make import build_index, load_index, stored
from patchcore_fast.search.priced import Search, priced_search, widened, with_price

__all__ = [
    "INDEXES",
    "ExactSearch",
    "HighestSearch",
    "Search",
    "SearchIndex",
    "build_index",
    "load_index",
    "priced_search",
    "settle",
    "stored",
    "widened",
    "with_price",
]
