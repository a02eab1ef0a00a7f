"""How the neighbours of patches are found in a memory bank: one interface, our exact search or one of faiss's."""

from __future__ import annotations

from patchcore_fast.search.base import INDEXES, ExactSearch, SearchIndex, settle
from patchcore_fast.search.make import build_index, load_index, stored

__all__ = ["INDEXES", "ExactSearch", "SearchIndex", "build_index", "load_index", "settle", "stored"]
