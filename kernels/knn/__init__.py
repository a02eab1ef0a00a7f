"""k nearest neighbours and anchor rarity: the public functions. Hop one is ops.py, hop two a backend's search."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops  # noqa: F401  (registers torch.ops.patchcore_fast)
from ..backends import choose_backend
from ..checks import check_int, check_matrix, check_rows
from ..exact import root
from ..ranks import Ranks, anchors_over_ranks, knn_over_ranks
from ..surroundings import undisturbed
from ..tuning import Budget
from .prepared import PreparedBank, prepare, search_prepared

__all__ = ["PreparedBank", "knn", "knn_rarity", "prepare"]


def knn(
    query: Tensor,  # [Q, D]
    bank: Tensor | PreparedBank,  # [M, D]
    k: int,
    *,
    backend: str = "auto",
    precision: str = "float32",
    memory_limit: int | None = None,
    group: Any = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest bank rows of each query row, in Euclidean distance.

    The neighbours are those of float64 brute force, ties to the lowest bank row, and the distances are rounded from
    float64: a fast float32 filter finds the few rows that could be among them, float64 settles those. Works in tiles;
    nothing Q x M is allocated. Usable under torch.compile(fullgraph=True).

    Parameters
    ----------
    query : [Q, D] float16, bfloat16, float32 or float64; Q may be 0.
    bank : [M, D], any of those types, on the same device; or what `prepare` made of one, which has chosen its backend,
        takes no other precision than the default, no memory_limit and no group, and is not for torch.compile.
    k : 1..M.
    backend : "auto" or a name from `explain_backends()`.
    precision : "float32": exact, by the arithmetic that suits the device ("ieee" and "tf32x3" name it). "tf32" and
        "bf16" permit less for the bulk of the work on devices that have it: the neighbours are then those of that
        arithmetic, no longer certified, at exact distances. Only Triton makes use of that; CUDA knows the others.
    memory_limit : bytes, at least 1 MiB, that tiles may take on the device (Triton, CUDA, torch backends), beyond
        arguments, results, 4 bytes a bank row, and some MB that a look over the rows takes before. Default: what is
        free. It changes the speed only.
    group : a torch.distributed process group whose ranks hold a part of the bank each, in the order of ranks, some
        perhaps none. query and bank are then this rank's own, Q may differ between ranks, and rows are numbers in the
        whole bank: those of one process. A small bank goes to every rank, else queries go around.

    Returns
    -------
    distances [Q, k] float32, ascending, and rows [Q, k] int64.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape, range or device; non-finite rows, with their count
    and the first; a backend that cannot run here.

    Notes
    -----
    Runs in torch's current stream. With the Triton and CUDA backends and k <= 64 a call can be captured in a CUDA
    graph, after the same call outside, which compiles or loads. Nothing then waits for the host: values are not checked
    (where some are not finite, the results mean nothing), and many equal bank rows are slower. CUDA's kernels are all
    loaded by then. Triton compiles during the capture what the call outside did not need, such as its kernels for
    queries with very many rows at nearly one distance: drivers before 545 may refuse that.
    """
    if group is not None:
        return _knn_over_ranks("knn", query, bank, k, group, backend, precision, memory_limit)
    ready = bank if isinstance(bank, PreparedBank) else None
    if ready is None:
        check_matrix("knn", "bank", bank, "M, D")
    else:
        bank = ready.rows
    assert isinstance(bank, Tensor)
    check_matrix("knn", "query", query, "Q, D", empty=True)
    if query.shape[1] != bank.shape[1]:
        raise ValueError(f"knn: query and bank must have equal width, got {query.shape[1]} and {bank.shape[1]}")
    if query.device != bank.device:
        raise ValueError(f"knn: query is on {query.device}, bank is on {bank.device}")
    k = check_int("knn", "k", k, 1, bank.shape[0], f" (the bank has {bank.shape[0]} rows)")
    if not isinstance(backend, str):
        raise TypeError(f"knn: backend must be a string, got {type(backend).__name__}")
    budget = Budget.checked("knn", precision, memory_limit)
    if ready is not None:
        if budget != Budget() or backend not in ("auto", ready.backend):
            raise ValueError("knn: backend, precision and memory_limit are not for a prepared bank: leave them out")
        return search_prepared(query.detach().resolve_neg(), ready, k)
    query, bank = query.detach().resolve_neg(), bank.detach().resolve_neg()
    return torch.ops.patchcore_fast.knn(query, bank, k, backend, budget.precision, budget.memory_limit)


@undisturbed
def _knn_over_ranks(
    name: str, query: Any, bank: Any, k: Any, group: Any, backend: str, precision: str, memory_limit: int | None
) -> tuple[Tensor, Tensor]:
    def search(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
        budget = Budget.checked(name, precision, memory_limit)  # here, where what fails on one rank is told on all
        return choose_backend(name, backend, query.device, "knn").knn(query, bank, k, budget)

    squared, rows = knn_over_ranks(name, query, bank, k, group, search)
    return root(squared).float(), rows


@undisturbed
def knn_rarity(
    features: Tensor,  # [N, D]
    k: int,
    *,
    anchors: int | Tensor = 1024,
    generator: torch.Generator | None = None,
    backend: str = "auto",
    precision: str = "float32",
    memory_limit: int | None = None,
    group: Any = None,
) -> Tensor:
    """How rare each row is: its mean distance to the k nearest of A anchor rows. Rare rows have large values.

    rarity(x) = 1/k * sum of the k smallest d(x, a), a in anchors, a not x itself.

    Parameters
    ----------
    features : [N, D] floating tensor.
    k : 1..A-1.
    anchors : number of anchors drawn uniformly without replacement (at most N are used), or the anchor rows [A]
        themselves, for instance `k_center_greedy(...).indices`.
    generator : for the draw; without it the draw is the same every time (seed 0).
    backend : "auto" or a name from `explain_backends()`.
    precision, memory_limit : as `knn`.
    group : as `knn`: features are this rank's, anchors and their numbers those of all ranks, the draw rank 0's.

    Returns
    -------
    [N] float32.

    Raises
    ------
    As `knn`.
    """
    name = "knn_rarity"
    if group is not None:
        ranks = Ranks(name, group)
        with ranks.watched():
            anchor, rows, first = anchors_over_ranks(name, features, anchors, generator, ranks)
        return _rarity(name, features, anchor.to(features.device), rows.to(features.device), first, k, backend,
                       precision, memory_limit)  # fmt: skip
    check_matrix(name, "features", features)
    n = features.shape[0]
    if isinstance(anchors, Tensor):
        rows = check_rows(name, "anchors", anchors, n, features.device).unique()
    else:
        count = min(n, check_int(name, "anchors", anchors, 2, 2**31 - 1))
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"{name}: generator must be a torch.Generator, got {type(generator).__name__}")
        generator = generator or torch.Generator().manual_seed(0)
        drawn = torch.randperm(n, generator=generator, device=generator.device)[:count]
        rows = drawn.to(features.device).sort().values
    anchor = features.index_select(0, rows)
    return _rarity(name, features, anchor, rows, 0, k, backend, precision, memory_limit)


def _rarity(
    name: str,
    features: Tensor,  # [N, D]
    anchor: Tensor,  # [A, D]
    rows: Tensor,  # [A] int64 ascending, numbers of the anchors
    first: int,  # number of the first of the features
    k: int,
    backend: str,
    precision: str,
    memory_limit: int | None,
) -> Tensor:
    if rows.shape[0] < 2:
        raise ValueError(f"{name}: at least 2 anchors are wanted, a row's own does not count; got {rows.shape[0]}")
    k = check_int(name, "k", k, 1, rows.shape[0] - 1, f" ({rows.shape[0]} anchors, a row's own not counted)")
    distance, index = knn(features, anchor, k + 1, backend=backend, precision=precision, memory_limit=memory_limit)
    own = rows[index] == torch.arange(first, first + len(features), device=features.device)[:, None]
    # Leave out the row's own anchor where it is among the k + 1, else the farthest of them.
    drop = torch.where(own.any(1), own.int().argmax(1), k)
    kept = distance.double().scatter(1, drop[:, None], 0.0)
    return (kept.sum(1) / k).float()
