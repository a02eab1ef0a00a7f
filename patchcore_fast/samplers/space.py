"""What a sampler looks at of rows that are read part by part, from a file or a store."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..scratch import room_for
from .basic import IdentitySampler, RandomSampler
from .greedy import ApproximateGreedyCoresetSampler, GreedyCoresetSampler
from .precomputed import PrecomputedSampler
from .projection import project, random_projection

STATE = 56  # bytes a row that a k-center selection holds beside its rows
_PART_BYTES = 64 << 20  # in float64
BLIND = (
    RandomSampler,
    IdentitySampler,
    PrecomputedSampler,
)  # ask how many rows there are: see `is_blind`
_PROJECTING = (GreedyCoresetSampler, ApproximateGreedyCoresetSampler)


def is_blind(sampler: Any) -> bool:
    """Whether a sampler asks only how many rows there are. One that was given chosen features looks for them."""
    return type(sampler) in BLIND and not getattr(sampler, "searches", False)


def projected_columns(sampler: Any, columns: int) -> int | None:
    """How wide the rows are that a sampler projects rows of so many columns to; None where it looks at these."""
    if type(sampler) not in _PROJECTING:
        return None
    width: int | None = sampler.dimension_to_project_features_to
    return None if width == columns else width


def space_of(
    sampler: Any,
    rows: int,
    columns: int,
    read: Callable[[int, int], Tensor],
    folder: str | os.PathLike[str] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Rows [N, d] from which `sampler.select` makes the picks that it would make from the rows themselves.

    A projected row is rounded on its own, so it does not matter in which parts rows are read, nor on which rank.

    Parameters
    ----------
    rows, columns : N and D.  read : (low, high) -> rows [high - low, D].
    folder : for what does not fit into memory; see `scratch.room_for`.

    Returns
    -------
    Those rows, None where only the rows themselves will do; and the projection [D, d] that they come by, or None.
    """
    if is_blind(sampler):
        return torch.zeros(rows, 1), None
    width = projected_columns(sampler, columns)
    if width is None:
        return None, None
    matrix = random_projection(columns, width, sampler.seed)
    device = sampler.device or torch.device("cpu")
    if device.type == "cpu":
        out = room_for((rows, width), torch.float32, folder)
    else:
        out = torch.empty(rows, width, dtype=torch.float32, device=device)
    step = max(1, _PART_BYTES // (8 * columns))
    for low in range(0, rows, step):
        high = min(rows, low + step)
        out[low:high] = project(read(low, high), matrix, device)
    return out, matrix
