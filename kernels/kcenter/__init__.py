"""k-center greedy: the public function. Hop one is traversal.py (the driver), hop two a backend's pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends import KCenterJob, choose_backend
from ..checks import check_int, check_matrix, check_rows, check_vector
from ..exact import paired_squared, squared_weights
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
    progress : called with (picks made, k) after every pass. An exception raised in it, or Ctrl-C, ends the run.
    tuning : sizes that change the speed only.
    precision : "float32": exact, by the arithmetic that suits the device ("ieee" and "tf32x3" name it). "tf32" and
        "bf16" permit less for the bulk of the work on devices that have it: the covering radius then stays within
        about 1 %, the picks do not. Only Triton makes use of that; the CUDA backend knows "ieee" and "tf32x3".
    memory_limit : bytes of device memory that Triton and CUDA may take beyond the features; default: what is free.

    Returns
    -------
    KCenterResult with `indices` [k] int64 and `radii` [k] float32 (non-increasing when unweighted, but for
    a given `start`; inf first unless `initial_min_dist` or `selected` says otherwise).

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape, range or device; NaN or infinite features (their
    count and the first row); a backend that cannot run here, with the reason.

    Notes
    -----
    Whatever torch is set to around the call, the picks are these (`kernels.surroundings`).
    O(N + T * (D + block) + (S + k) * D) memory beyond the features, T the candidates of a pass.

    References
    ----------
    T. F. Gonzalez, Clustering to minimize the maximum intercluster distance, 1985. K. Roth et al., Towards total
    recall in industrial anomaly detection, 2022 (PatchCore, Algorithm 1). The batching: docs/algorithm.md.
    """
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
    weight = None if weights is None else _check_weights(weights, n, device)
    if initial_min_dist is None:
        initial = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
    else:
        initial = check_vector(_NAME, "initial_min_dist", initial_min_dist, n, device).square_()
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"{_NAME}: generator must be a torch.Generator, got {type(generator).__name__}")
    if tuning is not None and not isinstance(tuning, Tuning):
        raise TypeError(f"{_NAME}: tuning must be a Tuning, got {type(tuning).__name__}")
    if progress is not None and not callable(progress):
        raise TypeError(f"{_NAME}: progress must be callable, got {type(progress).__name__}")
    budget = Budget.checked(_NAME, precision, memory_limit)
    chosen = choose_backend(_NAME, backend, device)

    if start is None and initial_min_dist is None and rows.shape[0] == 0:
        start = _first_row(n, weight, generator)
    first = None if start is None else (start, _start_squared(features, initial, rows, start))
    job = KCenterJob(_NAME, features, initial, weight, rows.shape[0], k, tuning or Tuning(), budget)
    leaves = chosen.k_center(job)
    leaves.append(rows)
    traversal = Traversal(leaves, k)
    picks = traversal.run(first, progress)
    indices = torch.tensor(picks.rows, dtype=torch.int64, device=device)
    radii = torch.tensor([math.sqrt(s) for s in picks.squared], dtype=torch.float64, device="cpu")
    return KCenterResult(indices, radii.to(device=device, dtype=torch.float32), traversal.passes, leaves.distances)


def _check_weights(weights: Tensor, n: int, device: torch.device) -> Tensor:
    weight = check_vector(_NAME, "weights", weights, n, device)
    if bool(weight.isinf().any()):
        raise ValueError(f"{_NAME}: weights must be finite, got inf at {int(weight.isinf().nonzero()[0])}")
    return squared_weights(weight)


def _first_row(n: int, weight: Tensor | None, generator: torch.Generator | None) -> int:
    """All distances are inf: a draw if one was asked for, else the lowest row whose weight is not zero."""
    if generator is not None:
        return int(torch.randint(n, (1,), generator=generator, device=generator.device))
    positive = None if weight is None else weight.nonzero()
    return int(positive[0]) if positive is not None and positive.shape[0] else 0


def _start_squared(features: Tensor, initial: Tensor, rows: Tensor, start: int) -> float:
    squared = float(initial[start])
    if rows.shape[0]:
        squared = min(squared, float(paired_squared(features, torch.full_like(rows, start), features, rows).min()))
    return squared
