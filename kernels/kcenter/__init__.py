"""k-center greedy: the public function. Hop one is traversal.py (the driver), hop two a backend's pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..backends import KCenterJob, choose_backend
from ..checks import check_int, check_matrix, check_rows, check_vector
from ..exact import paired_squared, root, squared_weights, weight_exponent
from ..ranking import Stop
from ..ranks import Ranks, select_over_ranks
from ..surroundings import undisturbed
from ..tuning import Budget, Tuning
from .traversal import Traversal

__all__ = ["KCenterResult", "Tuning", "k_center_greedy"]

_NAME = "k_center_greedy"


@dataclass(frozen=True)
class KCenterResult:
    """Picks in selection order.

    indices : [k] int64, row numbers, on the device of the features.
    radii : [k] float32, each pick's distance to the nearest earlier pick when it was made; inf first.
    passes : rounds of the driver over the rows.
    distances : row-to-pick distances computed in refreshing rows; the plain algorithm computes N * k.
    """

    indices: Tensor
    radii: Tensor
    passes: int
    distances: int


@undisturbed
def k_center_greedy(
    features: Tensor,  # [N, D]
    k: int,
    *,
    start: int | None = None,
    initial_min_dist: Tensor | None = None,  # [N]
    selected: Tensor | Sequence[int] | None = None,  # [S]
    weights: Tensor | None = None,  # [N]
    generator: torch.Generator | None = None,
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    tuning: Tuning | None = None,
    precision: str = "float32",
    memory_limit: int | None = None,
    radius: float | None = None,
    group: Any = None,
    picked: Callable[[Tensor, Tensor], None] | None = None,
) -> KCenterResult:
    """Select k rows by farthest-point traversal: each pick is the row farthest from all picks before it.

    The picks are those of the plain float64 algorithm (`kcenter.reference`), index for index, on every backend, for
    every batch size, thread count and tuning. Ties go to the lowest row. Picks never repeat.

    Parameters
    ----------
    features : [N, D] float16, bfloat16, float32 or float64 tensor on the CPU or a CUDA device; read in place, in tiles.
    k : number of picks, 1..N (less the rows in `selected`).
    start : the first pick. Without it: drawn from `generator` if one is given and nothing else decides; else the row
        with the largest key, which is row 0 when no distances are known yet.
    initial_min_dist : [N] distances >= 0 (inf allowed) that hold from the outset, an upper bound for each row.
    selected : rows picked earlier (warm start). They are not returned and not picked again.
    weights : [N] finite, >= 0. Greedy then maximises weight * distance; radii stay plain distances. A row of
        weight zero comes last. Keys are squares in float64: weights below about 1e-154 of the largest lose to
        underflow.
    generator : draws the first pick, see `start`.
    backend : "auto" or a name from `explain_backends()`.
    progress : called with (picks made, k) after every pass, or every few on a GPU. An exception raised in it, or
        Ctrl-C, ends the run.
    tuning : sizes that change the speed only.
    precision : "float32": exact, by the arithmetic that suits the device ("ieee" and "tf32x3" name it). "tf32" and
        "bf16" permit less for the bulk of the work on devices that have it: the covering radius then stays within
        about 1 %, the picks do not. Only Triton makes use of that; the CUDA backend knows "ieee" and "tf32x3".
    memory_limit : bytes of device memory that Triton and CUDA may take beyond the features; default: what is free.
    radius : stop as soon as every row is within this distance of a pick (weighted distance, with weights): k is then
        the most that are picked. Picks before that are the same.
    group : a torch.distributed process group whose ranks hold a part of the rows each, in the order of ranks, some
        perhaps none. features, initial_min_dist and weights are then this rank's own; start, selected and the result
        count all rows; the result is on the CPU and the same on every rank. progress and picked are called on rank 0.
    picked : called with the next picks, [P] int64 and their squared distances [P] float64, whenever there are some:
        what a checkpoint keeps. Selecting the rest with these as `selected` gives the picks of an uninterrupted run.

    Returns
    -------
    KCenterResult with `indices` [k] int64, fewer with `radius`, and `radii` [k] float32 (non-increasing when
    unweighted, but for a given `start`; inf first unless `initial_min_dist` or `selected` says otherwise).

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape, range or device; NaN or infinite features (their
    count and the first row); a backend that cannot run here, with the reason.  RankError (a RuntimeError): another
    rank has failed or died; the message names it.

    Notes
    -----
    Whatever torch is set to around the call, the picks are these (`kernels.surroundings`).
    O(N + T * (D + block) + (S + k) * D) memory beyond the features, T the candidates of a pass.

    References
    ----------
    T. F. Gonzalez, Clustering to minimize the maximum intercluster distance, 1985. K. Roth et al., Towards total
    recall in industrial anomaly detection, 2022 (PatchCore, Algorithm 1). The batching: docs/algorithm.md.
    """

    def checked() -> float | None:
        _check_options(generator, tuning, progress, picked)
        return _check_radius(radius)

    if group is not None:
        radius = Ranks(_NAME, group).agree(checked)
        rows, squared, passes, distances = select_over_ranks(
            _NAME, features, k, group, start=start, initial_min_dist=initial_min_dist, selected=selected,
            weights=weights, generator=generator, backend=backend, progress=progress, tuning=tuning or Tuning(),
            precision=precision, memory_limit=memory_limit, radius=radius, picked=picked,
        )  # fmt: skip
        return KCenterResult(rows, root(squared).float(), passes, distances)
    radius = checked()
    check_matrix(_NAME, "features", features)
    features = features.detach().resolve_neg()  # the native engine reads the memory itself
    n, device = features.shape[0], features.device
    rows = torch.empty(0, dtype=torch.int64, device=device)
    if selected is not None:
        rows = check_rows(_NAME, "selected", selected, n, device).unique()
    k = check_int(_NAME, "k", k, 1, n - rows.shape[0], f" (N = {n}, already selected = {rows.shape[0]})")
    if start is not None:
        start = check_int(_NAME, "start", start, 0, n - 1)
        if bool((rows == start).any()):
            raise ValueError(f"{_NAME}: start = {start} is among the rows in selected")
    weight = stop = None
    if weights is not None:
        weight, largest = _check_weights(weights, n, device)
        if radius is not None:
            radius = math.ldexp(radius, int(weight_exponent(largest)))
    if radius is not None:
        stop = Stop(radius, weight)
    started = initial_min_dist is not None
    if not started:
        initial = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
    else:
        initial = check_vector(_NAME, "initial_min_dist", initial_min_dist, n, device).square_()
    budget = Budget.checked(_NAME, precision, memory_limit)
    chosen = choose_backend(_NAME, backend, device)

    if start is None and not started and rows.shape[0] == 0:
        start = _first_row(n, weight, generator)
    first = None if start is None else (start, _start_squared(features, initial if started else None, rows, start))
    job = KCenterJob(_NAME, features, initial, weight, rows.shape[0], k, tuning or Tuning(), budget, started)
    leaves = chosen.k_center(job)
    leaves.append(rows)
    traversal = Traversal(_NAME, leaves, k, stop, picked)
    indices, squared = traversal.run(first, progress)
    return KCenterResult(indices, root(squared).float(), traversal.passes, leaves.distances)


def _check_options(generator: Any, tuning: Any, progress: Any, picked: Any) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"{_NAME}: generator must be a torch.Generator, got {type(generator).__name__}")
    if tuning is not None and not isinstance(tuning, Tuning):
        raise TypeError(f"{_NAME}: tuning must be a Tuning, got {type(tuning).__name__}")
    for what, value in (("progress", progress), ("picked", picked)):
        if value is not None and not callable(value):
            raise TypeError(f"{_NAME}: {what} must be callable, got {type(value).__name__}")


def _check_radius(radius: Any) -> float | None:
    if radius is None:
        return None
    if isinstance(radius, bool) or not isinstance(radius, (int, float)):
        raise TypeError(f"{_NAME}: radius must be a number, got {radius!r}")
    if not 0 <= radius < math.inf:
        raise ValueError(f"{_NAME}: radius must be >= 0 and finite, got {radius}")
    return float(radius)


def _check_weights(weights: Tensor, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Squared and scaled [N]; the largest as it came, []."""
    weight = check_vector(_NAME, "weights", weights, n, device)
    if bool(weight.isinf().any()):
        raise ValueError(f"{_NAME}: weights must be finite, got inf at {int(weight.isinf().nonzero()[0])}")
    return squared_weights(weight), weight.max()


def _first_row(n: int, weight: Tensor | None, generator: torch.Generator | None) -> int:
    """All distances are inf: a draw if one was asked for, else the lowest row whose weight is not zero."""
    if generator is not None:
        return int(torch.randint(n, (1,), generator=generator, device=generator.device))
    positive = None if weight is None else weight.nonzero()
    return int(positive[0]) if positive is not None and positive.shape[0] else 0


def _start_squared(features: Tensor, initial: Tensor | None, rows: Tensor, start: int) -> float:
    squared = math.inf if initial is None else float(initial[start])
    if rows.shape[0]:
        squared = min(squared, float(paired_squared(features, torch.full_like(rows, start), features, rows).min()))
    return squared
