"""Search by faiss (faiss-cpu, or faiss-gpu where that is installed); nothing else in this package imports it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from patchcore_fast.kernels import knn
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.search.base import settle

try:
    import faiss
except ImportError as error:
    raise ImportError('a faiss index needs faiss: pip install "patchcore_fast[faiss]"') from error

CANDIDATES = 32  # of "faiss-ivfpq", settled for each query by exact distances; at least four a neighbour
SPARE = 8  # candidates beyond k that "faiss-flat" gives: its expanded float32 squares may order near ties wrongly
_DIMENSIONS_A_CODE = 8  # one byte stands for this many numbers
_ROWS_A_STEP = 1 << 16


class _FaissSearch:
    """What both have in common: query in, candidates of a faiss index, exact distances out."""

    kind = ""
    index: Any

    def __init__(self, bank: torch.Tensor) -> None:
        self.bank = bank

    def _candidates(self, query: torch.Tensor, count: int) -> torch.Tensor:
        """[Q, count] int64, -1 where the index found fewer."""
        rows = np.empty((len(query), count), np.int64)
        for lo in range(0, len(query), _ROWS_A_STEP):
            part = _floats(query[lo : lo + _ROWS_A_STEP], self.index.d)
            rows[lo : lo + len(part)] = self.index.search(part, count)[1]
        return torch.from_numpy(rows).to(query.device)

    @undisturbed
    def _search(self, query: torch.Tensor, k: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        if query.ndim != 2 or query.shape[1] != self.bank.shape[1] or not query.is_floating_point():
            raise ValueError(
                f"search: query must be floating [Q, {self.bank.shape[1]}], got {tuple(query.shape)} {query.dtype}"
            )
        if query.device != self.bank.device:
            raise ValueError(f"search: query is on {query.device}, bank is on {self.bank.device}")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.bank):
            raise ValueError(f"search: k must lie in 1..{len(self.bank)}, the rows of the bank, got {k!r}")
        if not bool(torch.isfinite(query).all()):
            bad = int((~torch.isfinite(query).all(dim=1)).sum())
            raise ValueError(f"search: {bad} of {len(query)} query rows are not finite")
        distance, rows = settle(query, self.bank, self._candidates(query, min(len(self.bank), count)), k)
        # The lists that were probed may hold fewer than k rows: such queries are few, and searched exactly.
        short = (rows[:, -1] < 0).nonzero()[:, 0]
        if len(short):
            distance[short], rows[short] = knn(query[short], self.bank, k)
        return distance, rows


class FlatSearch(_FaissSearch):
    """faiss's IndexFlatL2 over all rows: brute force. It keeps a float32 copy of them.

    Parameters
    ----------
    bank : [M, D].
    """

    kind = "faiss-flat"

    def __init__(self, bank: torch.Tensor) -> None:
        """Copy the rows into faiss; to a GPU where the bank is on one and faiss has GPU support."""
        super().__init__(bank)
        index = faiss.IndexFlatL2(bank.shape[1])
        _add(index, bank)
        self.index = _where(index, bank.device)

    def search(self, query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `SearchIndex.search`. The candidates are k + SPARE, so that only ties within rounding can be missed."""
        return self._search(query, k, k + SPARE)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Empty: made anew from the rows by a copy."""
        return {}


class IvfPqSearch(_FaissSearch):
    """faiss's IndexIVFPQ: rows in about 4 sqrt(M) inverted lists, as codes of a byte for 8 numbers.

    A quarter of the lists is probed, by the codes; the best candidates are then settled by exact distances to their
    rows, of which a search reads max(CANDIDATES, 4 k) a query. Columns are filled up with zeros to a multiple of 8.
    """

    kind = "faiss-ivfpq"

    def __init__(self, bank: torch.Tensor, index: Any) -> None:
        """Take a trained index over `bank`; see `build` and `load`."""
        super().__init__(bank)
        self._host = index
        self.index = _where(index, bank.device)

    @classmethod
    def build(cls, bank: torch.Tensor, seed: int) -> IvfPqSearch:
        """Train on the rows, by k-means from `seed`, and add them. ValueError: fewer than two rows."""
        index = _untrained(bank)
        rows, lists, padded = len(bank), index.nlist, index.d
        for clustering in (index.cp, index.pq.cp):
            clustering.seed = seed % (2**31 - 1) + 1  # a C int, where 0 would mean faiss's own default
            clustering.min_points_per_centroid = 1  # small banks are fine: no warning on stderr
        most = 256 * max(lists, 256)  # what faiss would sample its training rows down to
        sample = bank
        if rows > most:
            drawn = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:most]
            sample = bank[drawn.sort().values.to(bank.device)]
        index.train(_floats(sample, padded))
        _add(index, bank)
        return cls(bank, index)

    @classmethod
    def load(cls, bank: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> IvfPqSearch:
        """The index of what `to_tensors` gave; the rows are coded anew. ValueError: parts of other rows.

        faiss's own format is not read: it trusts sizes and addresses in it, which a stranger may have written.
        """
        index = _untrained(bank)
        centres, words = (parts.get(name) for name in ("index_centres", "index_words"))
        for name, part, shape in (("centres", centres, (index.nlist, index.d)),
                                  ("words", words, (index.pq.M, index.pq.ksub, index.pq.dsub))):  # fmt: skip
            fits = part is not None and part.dtype == torch.float32 and part.numel() == math.prod(shape)
            if part is None or not fits or not bool(torch.isfinite(part).all()):
                got = "none" if part is None else f"{tuple(part.shape)} {part.dtype}"
                raise ValueError(f"load_index: {name} must be {shape} finite float32 for {len(bank)} rows, got {got}")
        assert centres is not None and words is not None
        index.quantizer.add(centres.cpu().view(index.nlist, index.d).numpy())
        faiss.copy_array_to_vector(words.cpu().reshape(-1).numpy(), index.pq.centroids)
        index.is_trained = True
        index.precompute_table()
        _add(index, bank)
        return cls(bank, index)

    def search(self, query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `SearchIndex.search`."""
        return self._search(query, k, max(CANDIDATES, 4 * k))

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """What k-means learnt: centres of the lists [lists, padded], code words [codes, words * 8], float32."""
        index = self._host
        words = torch.from_numpy(faiss.vector_to_array(index.pq.centroids).reshape(index.pq.M, -1).copy())
        centres = torch.from_numpy(index.quantizer.reconstruct_n(0, index.nlist))
        return {"index_centres": centres, "index_words": words}


def _untrained(bank: torch.Tensor) -> Any:
    """An empty IndexIVFPQ for rows [M, D]; all its sizes follow from theirs. ValueError: fewer than two rows."""
    rows, dim = bank.shape
    if rows < 2:
        raise ValueError(f"build_index: faiss-ivfpq wants at least 2 bank rows, got {rows}")
    codes = -(-dim // _DIMENSIONS_A_CODE)
    padded = codes * _DIMENSIONS_A_CODE
    # faiss wants 39 rows a centre to learn from, and refuses more code words than rows.
    lists = max(1, min(int(4 * rows**0.5), rows // 39))
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(padded), padded, lists, codes, min(8, rows.bit_length() - 1))
    index.nprobe = -(-lists // 4)
    return index


def _floats(rows: torch.Tensor, dim: int) -> np.ndarray:
    """[N, dim] float32 on the host, filled up with zeros."""
    part = torch.zeros(len(rows), dim, dtype=torch.float32)
    part[:, : rows.shape[1]] = rows.detach()
    return part.numpy()


def _add(index: Any, bank: torch.Tensor) -> None:
    for lo in range(0, len(bank), _ROWS_A_STEP):
        index.add(_floats(bank[lo : lo + _ROWS_A_STEP], index.d))


def _where(index: Any, device: torch.device) -> Any:
    """On the bank's GPU where faiss can go there; else on the host, and queries travel."""
    if device.type != "cuda" or not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return index
    number = torch.cuda.current_device() if device.index is None else device.index
    try:
        return _OnGpu(faiss.index_cpu_to_gpu(resources := faiss.StandardGpuResources(), number, index), resources)
    except RuntimeError:  # faiss's GPU index takes few code lengths only: the one on the host takes all
        return index


class _OnGpu:
    """A GPU index together with the resources that must outlive it."""

    def __init__(self, index: Any, resources: Any) -> None:
        self.index, self.resources, self.d = index, resources, index.d

    def search(self, query: np.ndarray, count: int) -> Any:
        """faiss's search: distances and rows."""
        return self.index.search(query, count)
