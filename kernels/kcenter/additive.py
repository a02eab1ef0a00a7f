"""Greedy by alpha * distance + gain, exact and batched: the picks of the plain float64 loop in tens of passes.

Let m(x) be the distance of row x to its nearest pick and key(x) = fl(fl(alpha m(x)) + gain(x)), alpha >= 0. m never
grows, and rounded multiplication by alpha and rounded addition of gain(x) keep order: so key(x) never grows either, and
a stale key is an upper bound. Rank is (larger key first, then lower row). One pass:

1. Refresh. Let C be the first T rows in rank by their bounds. Stale rows of C are brought up to date until none is left
   in it. All keys of C are then true, and every row outside ranks behind all of C, by a bound.
2. Run. Pick the first in rank of C and lower the keys of C by it, for as long as it ranks before the first bound
   outside. Rows outside can only go down, so it is the first of all rows: the pick of the plain loop. The first pick of
   a pass always ranks so, hence each pass makes one.

Distances that decide are the canonical ones (exact.py): a backend's search for the nearest of the picks that a row has
not seen gives them in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..backends import Backend, choose_backend
from ..checks import LARGEST, check_int, check_matrix, check_rows, raise_unusable
from ..exact import paired_squared, root, squared_distance
from ..surroundings import undisturbed
from ..tuning import Budget
from . import KCenterResult

_NAME = "additive_greedy"
# Rows among which greedy runs in a pass: between the first two to begin with, up to the third where picks are few.
_LEAST, _USUAL, _MOST = 256, 1024, 8192
_CHUNK = 1 << 22  # elements that are looked at at a time


@undisturbed
def additive_greedy(
    features: Tensor,  # [N, D]
    k: int,
    gain: Tensor,  # [N]
    *,
    alpha: float = 1.0,
    start: int | None = None,
    selected: Tensor | Sequence[int] | None = None,  # [S]
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> KCenterResult:
    """Select k rows, each the one of largest alpha * d(x, picks so far) + gain(x) among those not picked.

    The picks are those of the plain float64 loop (`kcenter.reference.additive_greedy_reference`), index for index, on
    every backend. Ties go to the lowest row. Picks never repeat.

    Parameters
    ----------
    features : [N, D] float16, bfloat16, float32 or float64 tensor; read in place, in tiles.
    k : number of picks, 1..N (less the rows in `selected`).
    gain : [N] finite floating tensor on the same device, negative values allowed, in the units of alpha * distance.
    alpha : weight of the distance, finite, >= 0; with 0 the picks are the k rows of largest gain.
    start : the first pick. Without it, and without `selected`, the row of largest gain: all are equally far then.
    selected : rows picked earlier. They are not returned and not picked again.
    backend : of `knn`.
    progress : called with (picks made, k) after every pass. An exception raised in it, or Ctrl-C, ends the run.

    Returns
    -------
    KCenterResult with `indices` [k] int64, `radii` [k] float32, plain distances to the earlier picks (inf first unless
    there are `selected`; not ordered), passes, and the row-to-pick distances computed in refreshing rows.

    Raises
    ------
    TypeError : wrong type or dtype.  ValueError : wrong shape, range or device; features or gain that are not finite.

    Notes
    -----
    O(N + T (D + block) + k D) memory beyond the features, T <= 8,192 the rows among which greedy runs. The sum of a
    distance and a score is the objective of additive diversity (maximal marginal relevance, Carbonell and Goldstein,
    1998), with the distance to the picks for the dissimilarity. Proof: docs/algorithm.md.
    """
    check_matrix(_NAME, "features", features)
    x = features.detach().resolve_neg()
    n, device = x.shape[0], x.device
    gain = _check_gain(gain, n, device)
    weight = _check_alpha(alpha)
    rows = torch.empty(0, dtype=torch.int64, device=device)
    if selected is not None:
        rows = check_rows(_NAME, "selected", selected, n, device).unique()
    k = check_int(_NAME, "k", k, 1, n - rows.shape[0], f" (N = {n}, already selected = {rows.shape[0]})")
    if start is not None:
        start = check_int(_NAME, "start", start, 0, n - 1)
        if bool((rows == start).any()):
            raise ValueError(f"{_NAME}: start = {start} is among the rows in selected")
    if progress is not None and not callable(progress):
        raise TypeError(f"{_NAME}: progress must be callable, got {type(progress).__name__}")
    _check_finite(x)
    chosen = choose_backend(_NAME, backend, device, "knn")
    return _Run(x, gain, weight, rows, chosen).picks(k, start, progress)


class _Run:
    """Bounds of all rows and the picks so far.

    squared : [N] float64, squared distance to the nearest of the first `seen` picks.  bound : [N] float64, the key
    that belongs to it, -inf once the row is picked.
    """

    def __init__(self, x: Tensor, gain: Tensor, alpha: float, given: Tensor, backend: Backend) -> None:
        n = x.shape[0]
        self.x, self.gain, self.alpha, self.backend = x, gain, alpha, backend
        self.picked = given  # [S + picks so far]
        self.squared = torch.full((n,), torch.inf, dtype=torch.float64, device=x.device)
        self.seen = torch.zeros(n, dtype=torch.int32, device=x.device)
        self.bound = gain.clone()
        self.bound[given] = -torch.inf
        self.distances = self.passes = 0

    def picks(self, k: int, start: int | None, progress: Callable[[int, int], None] | None) -> KCenterResult:
        made: list[Tensor] = []
        radii: list[Tensor] = []
        count = 0
        if start is not None or not self.picked.shape[0]:
            row = start if start is not None else int((self.gain == self.gain.max()).nonzero()[0])
            first = torch.tensor([row], device=self.x.device)
            radii.append(self._distance_to_given(first))
            made.append(first)
            self._add(first)
            count = 1
        if count < k:
            self._refresh(torch.arange(self.x.shape[0], device=self.x.device))  # inf is no bound to go by
        wanted = min(_USUAL, max(_LEAST, k))
        while count < k:
            rows, squared = self._pass(wanted, k - count)
            made.append(rows)
            radii.append(squared)
            count += rows.shape[0]
            self.passes += 1
            if rows.shape[0] < wanted // 16:
                wanted = min(_MOST, 2 * wanted)
            if progress is not None:
                progress(count, k)
        if self.passes == 0 and progress is not None:  # the first pick was all
            progress(k, k)
        return KCenterResult(torch.cat(made), root(torch.cat(radii)).float(), self.passes, self.distances)

    def _pass(self, wanted: int, most: int) -> tuple[Tensor, Tensor]:
        """The next picks in the order of the plain loop, at least one and at most `most`, and their squares."""
        step = wanted
        while True:
            inside = self._first(wanted)
            if not bool((self.seen[inside] < self.picked.shape[0]).any()):
                break
            near = self._first(step)  # more at a time than C: those that follow are mostly wanted next
            self._refresh(near[self.seen[near] < self.picked.shape[0]])
            step = min(2 * step, self.x.shape[0])
        outside = self.bound.index_fill(0, inside, -torch.inf)
        best = float(outside.max())
        row = int((outside == best).nonzero()[0])
        del outside
        rows, squares, updated = self._run(inside.cpu(), (best, row), most)
        self.squared[inside] = updated.to(self.x.device)
        found = rows.to(self.x.device)
        before = self.picked.shape[0]
        self._add(found)
        open_ = inside[self.bound[inside] > -torch.inf]
        self.bound[open_] = self._key(self.squared[open_], self.gain[open_])
        self.seen[inside] = before  # some have seen picks of this pass too; seeing them again changes nothing
        return found, squares.to(self.x.device)

    def _run(self, rows: Tensor, edge: tuple[float, int], most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Greedy among rows [C] (ascending) whose squares are true, on the host, while it ranks before the edge.

        Returns picks [P] and their squares [P], and the squares of all C rows, lowered as far as they were needed.
        """
        where = rows.to(self.x.device)
        block = self.x[where].cpu().double()
        squared, gain = self.squared[where].cpu(), self.gain[where].cpu()
        lowered = squared.clone()
        place = torch.arange(rows.shape[0])  # of what is left in the block
        taken = torch.zeros(rows.shape[0], dtype=torch.bool)
        key = self._key(squared, gain)
        picks: list[int] = []
        squares: list[float] = []
        while len(picks) < most:
            value, at = key.max(0)  # of equal keys any
            best = float(value)
            if best == -math.inf or best < edge[0]:
                break
            i = int((key == value).nonzero()[0]) if int((key == value).sum()) > 1 else int(at)
            if best == edge[0] and int(rows[place[i]]) > edge[1]:
                break
            picks.append(int(rows[place[i]]))
            squares.append(float(squared[i]))
            nearer = squared_distance(block, block[i])
            torch.minimum(squared, nearer, out=squared)
            taken[i] = True
            key = self._key(squared, gain).masked_fill_(taken, -math.inf)
            # What has fallen behind the edge does not come back: leave it, once it is a half.
            open_ = key >= edge[0]
            left = int(open_.sum())
            if 0 < 2 * left <= key.shape[0]:
                lowered[place] = squared
                block, squared, gain, place, key, taken = (v[open_] for v in (block, squared, gain, place, key, taken))
        lowered[place] = squared
        return torch.tensor(picks, dtype=torch.int64), torch.tensor(squares, dtype=torch.float64), lowered

    def _first(self, count: int) -> Tensor:
        """The first `count` rows in rank by their bounds, or all that are not picked if these are fewer; ascending."""
        count = min(count, self.bound.shape[0])
        edge = self.bound.topk(count).values[-1]
        above = self.bound > edge
        out = [above.nonzero().squeeze(1)]
        if float(edge) > -math.inf:
            out.append((self.bound == edge).nonzero().squeeze(1)[: count - out[0].shape[0]])
        return torch.cat(out).sort().values

    def _refresh(self, rows: Tensor) -> None:
        """Bring rows [R] up to date with the picks that they have not seen, those of similar age together."""
        total = self.picked.shape[0]
        age = total - self.seen[rows].long()
        group = age.double().log2().floor().long()
        for which in group.unique().tolist():
            own = rows[group == which]
            new = self.picked[int(self.seen[own].min()) :]
            self._compare(own, new)
            self.distances += own.shape[0] * new.shape[0]
        self.seen[rows] = total
        rows = rows[self.bound[rows] > -torch.inf]
        self.bound[rows] = self._key(self.squared[rows], self.gain[rows])

    def _compare(self, rows: Tensor, new: Tensor) -> None:
        """Lower the squares of rows [R] by their distances to picks [P]."""
        bank = self.x[new]
        step = max(1, _CHUNK // self.x.shape[1])
        for part in rows.split(step):
            nearest = self.backend.knn(self.x[part], bank, 1, Budget())[0][:, 0]
            self.squared[part] = torch.minimum(self.squared[part], nearest)

    def _distance_to_given(self, row: Tensor) -> Tensor:
        """Squared distance of a row [1] to the rows selected before, [1] float64."""
        if not self.picked.shape[0]:
            return torch.full((1,), torch.inf, dtype=torch.float64, device=self.x.device)
        return paired_squared(self.x, row.expand(self.picked.shape[0]), self.x, self.picked).min()[None]

    def _key(self, squared: Tensor, gain: Tensor) -> Tensor:
        return root(squared).mul_(self.alpha).add_(gain)  # in two roundings, on every device

    def _add(self, rows: Tensor) -> None:
        self.picked = torch.cat([self.picked, rows])
        self.bound[rows] = -torch.inf


def _check_gain(gain: Tensor, n: int, device: torch.device) -> Tensor:
    """[N] float64, a copy."""
    if not isinstance(gain, Tensor):
        raise TypeError(f"{_NAME}: gain must be a torch.Tensor [{n}], got {type(gain).__name__}")
    if not gain.is_floating_point():
        raise TypeError(f"{_NAME}: gain must be a floating tensor, got {gain.dtype}")
    if gain.shape != (n,):
        raise ValueError(f"{_NAME}: gain must have shape ({n},), one value a row, got {tuple(gain.shape)}")
    if gain.device != device:
        raise ValueError(f"{_NAME}: gain is on {gain.device}, features are on {device}")
    bad = ~gain.isfinite()
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"{_NAME}: gain must be finite; {int(bad.sum())} of {n} values are not, the first at {first} "
            f"({float(gain[first])})"
        )
    return gain.detach().to(torch.float64, copy=True)


def _check_alpha(alpha: float) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f"{_NAME}: alpha must be a number, got {alpha!r}")
    if not 0 <= alpha < math.inf:
        raise ValueError(f"{_NAME}: alpha must be >= 0 and finite, got {alpha}")
    return float(alpha)


def _check_finite(x: Tensor) -> None:
    for part in x.split(max(1, _CHUNK // x.shape[1])):
        low, high = part.aminmax()  # both are NaN where one value is
        if not max(-float(low), float(high)) <= LARGEST:
            raise_unusable(_NAME, "features", x)
