"""`knn` and `knn_rarity` with a group: queries and bank rows of all ranks, each answered for the rank that asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import check_int, check_matrix, check_rows
from .group import Ranks
from .kcenter import rows_of

_REPLICATED = 64 << 20  # bytes of a bank up to which every rank gets it whole
_ASKED = 1 << 22  # values of queries that go around at a time
# (query [Q, D], bank [M, D], k) -> squared distances [Q, k] float64 ascending, rows [Q, k] int64
Search = Callable[[Tensor, Tensor, int], "tuple[Tensor, Tensor]"]


def knn_over_ranks(name: str, query: Any, bank: Any, k: Any, group: Any, search: Search) -> tuple[Tensor, Tensor]:
    """Neighbours of this rank's queries in the bank of all ranks: squared [Q, k] float64, global rows [Q, k] int64."""
    ranks = Ranks(name, group)
    with ranks.watched():
        ranks.agree(lambda: _check(name, query, bank))
        dtype = str(bank.dtype).removeprefix("torch.")
        ranks.same(columns=bank.shape[1], k=k if isinstance(k, int) else str(k), dtype=dtype, queries=str(query.dtype))
        counts = ranks.counts(bank.shape[0])
        total = sum(counts)
        k = check_int(name, "k", k, 1, total, f" (the bank has {total} rows)")
        query, bank = query.detach().resolve_neg(), bank.detach().resolve_neg()
        if total * bank.shape[1] * bank.element_size() <= _REPLICATED:
            whole = ranks.gather(bank, counts).to(query.device)
            return ranks.agree(lambda: search(query, whole, k) if query.shape[0] else _nothing(query, k))
        return _go_around(ranks, query, bank, counts, k, search)


def _check(name: str, query: Any, bank: Any) -> None:
    check_matrix(name, "bank", bank, "M, D", empty=True)
    check_matrix(name, "query", query, "Q, D", empty=True)
    if query.shape[1] != bank.shape[1]:
        raise ValueError(f"{name}: query and bank must have equal width, got {query.shape[1]} and {bank.shape[1]}")
    if query.device != bank.device:
        raise ValueError(f"{name}: query is on {query.device}, bank is on {bank.device}")


def _nothing(query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of every query [Q, D] no neighbour yet: squared distances [Q, k] inf, rows [Q, k]."""
    near = torch.full((query.shape[0], k), torch.inf, dtype=torch.float64, device=query.device)
    return near, torch.full_like(near, torch.iinfo(torch.int64).max, dtype=torch.int64)


def _go_around(
    ranks: Ranks, query: Tensor, bank: Tensor, counts: list[int], k: int, search: Search
) -> tuple[Tensor, Tensor]:
    """The bank stays where it is: queries go to all ranks, a share at a time; to each come the nearest of its own."""
    step = max(1, _ASKED // (query.shape[1] * ranks.size))
    offset, device = sum(counts[: ranks.rank]), query.device
    squared, rows = _nothing(query, k)
    asked = ranks.counts(query.shape[0])
    for lo in range(0, max(asked), step):
        shares = [min(step, max(0, count - lo)) for count in asked]
        every = ranks.gather(query[lo : lo + step], shares).to(device)
        few = min(k, bank.shape[0])
        near, which = _nothing(every, k)

        def answer(every: Tensor = every, few: int = few) -> tuple[Tensor, Tensor] | None:
            return search(every, bank, few) if few and every.shape[0] else None

        found = ranks.agree(answer)
        if found is not None:
            near[:, :few], which[:, :few] = found[0], found[1] + offset
        # This rank's queries as the banks of all ranks answer them: [ranks, 2, queries, k], distances as their bits.
        answers = ranks.trade(torch.stack([near.view(torch.int64), which], 1), shares).to(device).transpose(1, 2)
        # Ranks have ascending rows: a stable sort by distance puts the lowest row first among equals.
        all_near, all_which = (answers[:, part].transpose(0, 1).flatten(1) for part in (0, 1))
        best, order = all_near.view(torch.float64).sort(dim=1, stable=True)
        squared[lo : lo + step] = best[:, :k]
        rows[lo : lo + step] = all_which.gather(1, order[:, :k])
    return squared, rows


def anchors_over_ranks(
    name: str, features: Tensor, anchors: int | Tensor, generator: torch.Generator | None, ranks: Ranks
) -> tuple[Tensor, Tensor, int]:
    """Anchor rows of all ranks [A, D], their global numbers [A] ascending, and the number of this rank's first row."""
    ranks.agree(lambda: check_matrix(name, "features", features, empty=True))
    given = isinstance(anchors, Tensor)
    ranks.same(columns=features.shape[1], dtype=str(features.dtype), anchors="rows" if given else str(anchors))
    counts = ranks.counts(features.shape[0])
    n = sum(counts)

    def numbers() -> Tensor:
        if isinstance(anchors, Tensor):
            return check_rows(name, "anchors", anchors, n, torch.device("cpu")).unique()
        count = min(n, check_int(name, "anchors", anchors, 2, 2**31 - 1))
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"{name}: generator must be a torch.Generator, got {type(generator).__name__}")
        drawing = generator or torch.Generator().manual_seed(0)
        return torch.randperm(n, generator=drawing, device=drawing.device)[:count].cpu().sort().values

    rows = ranks.agree(numbers)
    if not given:  # rank 0's draw, whoever has a generator
        rows = ranks.gather(rows if ranks.rank == 0 else rows[:0])
    ranks.same(anchors=rows)
    return rows_of(ranks, features, counts, rows), rows, sum(counts[: ranks.rank])
