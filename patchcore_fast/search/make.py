"""From the name of an index to the index, over fresh rows or from what a bank file kept."""

from __future__ import annotations

import hashlib
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
def load_index(kind: str, bank: torch.Tensor, content: torch.Tensor | None = None) -> SearchIndex:
    """The index that `to_bytes` described, over the same rows.

    Parameters
    ----------
    kind, bank : as `build_index`.  content : [B] uint8 of `to_bytes`, None for the kinds that have none.

    Raises
    ------
    ValueError : content that is missing, damaged, or of other rows.  ImportError : faiss is not installed.
    """
    _check("load_index", kind, bank)
    if kind != "faiss-ivfpq":
        if content is not None:
            raise ValueError(f"load_index: an index {kind!r} is its rows, got {tuple(content.shape)} bytes besides")
        return build_index(kind, bank)
    if not isinstance(content, torch.Tensor) or content.dtype != torch.uint8 or content.ndim != 1:
        got = f"{tuple(content.shape)} {content.dtype}" if isinstance(content, torch.Tensor) else repr(content)
        raise ValueError(f"load_index: content of {kind!r} must be [B] uint8, got {got}")
    from patchcore_fast.search import faiss_index

    return faiss_index.IvfPqSearch.load(bank, content)


def stored(index: SearchIndex | None) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """What a bank file says of its index, and the tensors that belong to it; nothing for our own search."""
    if index is None or index.kind == "exact":
        return {}, {}
    content = index.to_bytes()
    entry = {"kind": index.kind, "digest": None if content is None else _digest(content)}
    return {"index": json.dumps(entry)}, {} if content is None else {"index": content}


def restored(
    metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor], bank: torch.Tensor
) -> SearchIndex | None:
    """The index that `stored` described; None where the file has none (as files before this one).

    Raises
    ------
    ValueError : it does not belong to these rows, or its bytes are not those that were written.
    ImportError : faiss is not installed.
    """
    if "index" not in metadata:
        return None
    entry, content = json.loads(metadata["index"]), tensors.get("index")
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
        raise ValueError(f"index must be described by its kind, got {metadata['index']!r}")
    # faiss checks little of what it reads: bytes that changed are not given to it.
    if content is not None and _digest(content) != entry.get("digest"):
        raise ValueError("the bytes of its search index are not those that were written")
    return load_index(entry["kind"], bank, content)


def _digest(content: torch.Tensor) -> str:
    return hashlib.blake2b(content.cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()


def _check(name: str, kind: str, bank: torch.Tensor) -> None:
    if kind not in INDEXES:
        raise ValueError(f"{name}: kind must be one of {', '.join(INDEXES)}, got {kind!r}")
    if not isinstance(bank, torch.Tensor) or bank.ndim != 2 or 0 in bank.shape or not bank.is_floating_point():
        got = f"{tuple(bank.shape)} {bank.dtype}" if isinstance(bank, torch.Tensor) else type(bank).__name__
        raise ValueError(f"{name}: bank must be a floating tensor [M, D], got {got}")
