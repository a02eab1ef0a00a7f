"""What ranks are asked to do in these tests, and the same in one process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from patchcore_fast.kernels import Tuning, k_center_greedy, knn, knn_rarity

LOCAL = ("initial_min_dist", "weights")  # arguments that are cut like the rows


def parts(n: int, size: int, seed: int = 0, empty: bool = True) -> list[int]:
    """Numbers of rows of so many ranks, uneven, some of them none."""
    generator = torch.Generator().manual_seed(seed + size)
    cuts = torch.randint(0, n + 1, (size - 1,), generator=generator).sort().values.tolist()
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    if empty and size > 2:
        counts[size // 2 - 1] += counts[size // 2]
        counts[size // 2] = 0
    return counts


def own(x: Any, rank: int, counts: list[int]) -> Any:
    return None if x is None else x[sum(counts[:rank]) : sum(counts[: rank + 1])]


def select(group: Any, rank: int, x: Tensor, k: int, counts: list[int], options: dict[str, Any]) -> dict[str, Any]:
    """This rank's part of a selection."""
    told: list[tuple[int, int]] = []
    given = {name: own(value, rank, counts) if name in LOCAL else value for name, value in options.items()}
    if "seed" in given:
        given["generator"] = torch.Generator().manual_seed(given.pop("seed") + 100 * rank)
    found = k_center_greedy(own(x, rank, counts), k, group=group, progress=lambda *made: told.append(made), **given)
    return {"indices": found.indices, "radii": found.radii, "passes": found.passes, "distances": found.distances,
            "told": told}  # fmt: skip


def alone(x: Tensor, k: int, options: dict[str, Any]) -> Any:
    """One process."""
    given = dict(options)
    given.pop("backend", None)
    if "seed" in given:
        given["generator"] = torch.Generator().manual_seed(given.pop("seed"))
    return k_center_greedy(x, k, **given)


def neighbours(group: Any, rank: int, query: Tensor, bank: Tensor, k: int, asked: list[int], held: list[int],
               replicated: int, backend: str) -> tuple[Tensor, Tensor]:  # fmt: skip
    """This rank's part of a search."""
    from patchcore_fast.kernels.ranks import knn as over_ranks

    before = over_ranks._REPLICATED, over_ranks._ASKED
    over_ranks._REPLICATED, over_ranks._ASKED = replicated, 500
    try:
        return knn(own(query, rank, asked), own(bank, rank, held), k, group=group, backend=backend)
    finally:
        over_ranks._REPLICATED, over_ranks._ASKED = before


def rarity(group: Any, rank: int, x: Tensor, k: int, counts: list[int], options: dict[str, Any]) -> Tensor:
    return knn_rarity(own(x, rank, counts), k, group=group, **options)


SMALL = Tuning(batch=20, block=16)
