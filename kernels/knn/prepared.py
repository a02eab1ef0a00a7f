"""A bank made ready once for many searches: the public function `prepare`, and what `knn` does with its result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends import choose_backend
from ..backends.base import Work
from ..checks import check_matrix
from ..exact import root
from ..surroundings import undisturbed

PRUNE = ("auto", "none", "partial")


class PreparedBank:
    """What `prepare` gives and `knn` takes in place of a bank.

    A copy, or one that another process unpickles, is prepared anew.

    Attributes
    ----------
    rows : [M, D], the bank: the caller's tensor, which must stay as it is.
    backend : by which it is searched.
    prune : as `prepare`.
    nbytes : held beside the bank. Grows once, where a first search shows that short rows do not pay.
    columns : of a short row, 0 where there are none.
    work : `pairs` of a query and a bank row in searches so far, and how many were looked at `full` in all columns,
        `short` along a few directions, `settled` in float64 after that. Of threads at the same time it may miss some.
    """

    @undisturbed
    def __init__(self, rows: Tensor, backend: str = "auto", prune: str = "auto") -> None:
        """See `prepare`."""
        check_matrix("prepare", "bank", rows, "M, D")
        if prune not in PRUNE:
            raise ValueError(f"prepare: prune must be one of {', '.join(PRUNE)}, got {prune!r}")
        self.rows, self.prune = rows.detach().resolve_neg(), prune
        chosen = choose_backend("prepare", backend, rows.device, "knn")
        self.backend = chosen.name
        self._version = _version(self.rows)
        self._ready = chosen.ready(self.rows, prune)

    @property
    def nbytes(self) -> int:
        return self._ready.nbytes

    @property
    def columns(self) -> int:
        return self._ready.columns

    @property
    def work(self) -> Work:
        return self._ready.work

    @property
    def share(self) -> float:
        """Products computed in all searches so far, of those that a plain search takes; 0 before the first."""
        work = self.work
        short = work.short * self.columns / self.rows.shape[1]
        return (work.full + short + work.settled) / work.pairs if work.pairs else 0.0

    def __len__(self) -> int:
        """M."""
        return self.rows.shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """The engine's memory does not travel."""
        return PreparedBank, (self.rows, self.backend, self.prune)

    @undisturbed
    def search(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Squared distances [Q, k] float64 and rows [Q, k] of checked arguments, Q > 0.

        Raises
        ------
        ValueError : the bank was changed in place since it was prepared.
        """
        if _version(self.rows) != self._version:
            raise ValueError("knn: the bank was changed after it was prepared; prepare it again")
        return self._ready.knn(query, k)


def prepare(bank: Tensor, *, backend: str = "auto", prune: str = "auto") -> PreparedBank:
    """A bank made ready for many searches: `knn(query, prepare(bank), k)` is `knn(query, bank, k)`, sooner.

    The rows are measured and packed once. Where the engine can (CPU, and torch anywhere) each row also gets a short
    one: its coordinates along some leading directions, and the length of the rest. Distances of short rows are lower
    bounds, so most bank rows are excluded along a fraction of the columns and the others are settled in float64: the
    neighbours are the same. Proof and figures: docs/search.md.

    Parameters
    ----------
    bank : [M, D] float16, bfloat16, float32 or float64; kept, not copied, and not to be changed.
    backend : "auto" or a name from `explain_backends()`; `knn` then uses that one.
    prune : "auto" measures as it goes whether short rows pay, "partial" always starts with them, "none" never.

    Returns
    -------
    PreparedBank. It may be used by several threads.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape; non-finite rows; a backend that cannot run here.

    Notes
    -----
    Holds 4 to 8 bytes a row, short rows of 16 to 64 values (2 or 4 bytes each), and, once they are needed, packed rows:
    2 bytes a value on processors with AMX or VNNI, else 4.
    """
    return PreparedBank(bank, backend, prune)


def search_prepared(query: Tensor, bank: PreparedBank, k: int) -> tuple[Tensor, Tensor]:
    """Distances [Q, k] float32 and rows [Q, k] int64 of checked arguments."""
    if query.shape[0] == 0:
        return query.new_empty((0, k), dtype=torch.float32), query.new_empty((0, k), dtype=torch.int64)
    squared, rows = bank.search(query, k)
    return root(squared).float(), rows


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version
