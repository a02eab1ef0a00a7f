"""From the name of an index to the index, over fresh rows or from what a bank file kept."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.search.base import INDEXES, ExactSearch, SearchIndex


@undisturbed
def build_index(kind: str, bank: torch.Tensor, seed: int = 0) -> SearchIndex:
    """An index over bank rows.

    Parameters
    ----------
    kind : "exact" (`kernels.knn`), "faiss-flat" (faiss's brute force) or "faiss-ivfpq" (inverted lists of product
        codes, Jegou et al. 2011: about D / 8 bytes a row are searched instead of 4 D; finds most neighbours, not all).
    bank : [M, D] finite floating rows, on the device where queries will be; kept, not copied.
    seed : of the k-means of "faiss-ivfpq".

    Raises
    ------
    ValueError : unknown kind, or a bank that is no [M, D].  ImportError : faiss is not installed.
    """
    _check("build_index", kind, bank)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"build_index: seed must be an integer >= 0, got {seed!r}")
    if kind == "exact":
        return ExactSearch(bank)
    from patchcore_fast.search import faiss_index

    return faiss_index.FlatSearch(bank) if kind == "faiss-flat" else faiss_index.IvfPqSearch.build(bank, seed)


@undisturbed
def load_index(kind: str, bank: torch.Tensor, parts: Mapping[str, torch.Tensor] | None = None) -> SearchIndex:
    """The index that `to_tensors` described, over the same rows.

    Parameters
    ----------
    kind, bank : as `build_index`.  parts : of `to_tensors`; others with them are left alone.

    Raises
    ------
    ValueError : parts that are missing or belong to other rows.  ImportError : faiss is not installed.
    """
    _check("load_index", kind, bank)
    if kind != "faiss-ivfpq":
        return build_index(kind, bank)
    from patchcore_fast.search import faiss_index

    return faiss_index.IvfPqSearch.load(bank, parts or {})


def stored(index: SearchIndex | None) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """What a bank file says of its index, and the tensors that belong to it; nothing for our own search."""
    if index is None or index.kind == "exact":
        return {}, {}
    return {"index": json.dumps({"kind": index.kind})}, index.to_tensors()


def _check(name: str, kind: str, bank: torch.Tensor) -> None:
    if kind not in INDEXES:
        raise ValueError(f"{name}: kind must be one of {', '.join(INDEXES)}, got {kind!r}")
    if not isinstance(bank, torch.Tensor) or bank.ndim != 2 or 0 in bank.shape or not bank.is_floating_point():
        got = f"{tuple(bank.shape)} {bank.dtype}" if isinstance(bank, torch.Tensor) else type(bank).__name__
        raise ValueError(f"{name}: bank must be a floating tensor [M, D], got {got}")
