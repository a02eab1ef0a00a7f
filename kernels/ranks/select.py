"""`k_center_greedy` with a group: what is checked by all ranks together, before and behind the driver."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import KCenterJob, choose_backend
from ..backends.stepwise import Stepwise
from ..checks import check_int, check_matrix, check_rows, check_vector
from ..exact import paired_squared, squared_weights, weight_exponent
from ..ranking import Rank
from ..tuning import Budget, Tuning
from .group import Ranks
from .kcenter import RankTraversal, Shard, block_job


def select_over_ranks(
    name: str,
    features: Any,  # [N_r, D]
    k: Any,
    group: Any,
    *,
    start: Any,
    initial_min_dist: Any,
    selected: Any,
    weights: Any,
    generator: Any,
    backend: Any,
    progress: Callable[[int, int], None] | None,
    tuning: Tuning,
    precision: Any,
    memory_limit: Any,
    radius: float | None,
    picked: Callable[[Tensor, Tensor], None] | None,
) -> tuple[Tensor, Tensor, int, int]:
    """Global row numbers [P] int64, squared distances [P] float64, passes, distances: on every rank the same."""
    ranks = Ranks(name, group)
    with ranks.watched():
        call = _Call(ranks, features, k, start, initial_min_dist, selected, weights, generator, backend, tuning,
                     lambda: Budget.checked(name, precision, memory_limit), radius)  # fmt: skip
        return call.run(progress, picked) if ranks.rank == 0 else call.run(None, None)


class _Call:
    """The arguments, checked, and what they come to."""

    def __init__(
        self,
        ranks: Ranks,
        features: Any,
        k: Any,
        start: Any,
        initial: Any,
        selected: Any,
        weights: Any,
        generator: Any,
        backend: Any,
        tuning: Tuning,
        budget: Callable[[], Budget],
        radius: float | None,
    ) -> None:
        name = ranks.name
        self.ranks, self.tuning, self.generator = ranks, tuning, generator
        self.budget = ranks.agree(budget)
        ranks.agree(lambda: check_matrix(name, "features", features, "N, D", empty=True))
        self.features: Tensor = features.detach().resolve_neg()
        dtype = str(features.dtype).removeprefix("torch.")
        ranks.same(columns=features.shape[1], dtype=dtype, k=_plain(k), start=_plain(start), radius=radius)
        ranks.same(batch=tuning.batch, lazy=tuning.lazy)  # which exchanges there are, and their sizes
        self.counts = ranks.counts(features.shape[0])
        self.n = n = sum(self.counts)
        if n == 0:
            raise ValueError(f"{name}: features must hold at least one row on one of the ranks")
        chosen = ranks.agree(lambda: choose_backend(name, backend, features.device))
        ranks.same(backend=_plain(backend))
        # What "auto" finds may differ, as where one machine has no compiler; each agrees upon frames in its own way.
        mixed = len(set(ranks.tell(chosen.name))) > 1
        self.backend = choose_backend(name, "torch", features.device) if mixed else chosen
        self.selected, self.k, self.start = ranks.agree(lambda: _numbers(name, selected, k, start, n))
        ranks.same(selected=self.selected)
        self.weight, self.stop = self._weights(weights, radius)
        self.started = ranks.most(float(initial is not None)) > 0
        self.initial = ranks.agree(lambda: self._initial(initial))

    def _weights(self, weights: Any, radius: float | None) -> tuple[Tensor | None, float | None]:
        """Squared weights, of one scale on all ranks; the radius in their units."""
        rows, device, name = self.features.shape[0], self.features.device, self.ranks.name
        told = self.ranks.most(float(weights is not None)) > 0
        if not told:
            return None, radius

        def check() -> tuple[Tensor, float]:
            if weights is None:
                raise ValueError(f"{name}: weights must be given on all ranks or on none")
            weight = check_vector(name, "weights", weights, rows, device)
            if bool(weight.isinf().any()):
                raise ValueError(f"{name}: weights must be finite, got inf at {int(weight.isinf().nonzero()[0])}")
            return weight, float(weight.max()) if rows else 0.0

        weight, most = self.ranks.agree(check)
        largest = torch.tensor(self.ranks.most(most), dtype=torch.float64)
        stop = None if radius is None else math.ldexp(radius, int(weight_exponent(largest)))
        return squared_weights(weight, largest.to(device)), stop

    def _initial(self, initial: Any) -> Tensor:
        rows, device, name = self.features.shape[0], self.features.device, self.ranks.name
        if initial is None:
            if self.started:
                raise ValueError(f"{name}: initial_min_dist must be given on all ranks or on none")
            return torch.full((rows,), torch.inf, dtype=torch.float64, device=device)
        return check_vector(name, "initial_min_dist", initial, rows, device).square_()

    def run(
        self, progress: Callable[[int, int], None] | None, picked: Callable[[Tensor, Tensor], None] | None
    ) -> tuple[Tensor, Tensor, int, int]:
        """Select."""
        start, nothing_known = self.start, not self.started and self.selected.shape[0] == 0
        if start is None and nothing_known:
            start = self._first_row()
        given = self.selected.shape[0]
        job = KCenterJob(self.ranks.name, self.features, self.initial.clone(), self.weight, given, self.k, self.tuning,
                         self.budget, self.started)  # fmt: skip
        shard = Shard(self.features, self.weight, self.backend.shard(job, self.ranks), self.counts)
        traversal = RankTraversal(self.ranks, shard, self.k, self.tuning, _resolve)
        known = traversal.rows_of(self.selected)
        traversal.append(self.selected, known)
        first = None
        if start is not None:
            row = torch.tensor([start])
            vector = traversal.rows_of(row)
            first = (start, self._start_squared(start, vector, known))
            traversal.append(row, vector)
        rows, squared = traversal.run(first, self.stop, progress, picked)
        return rows, squared, traversal.passes, traversal.distances

    def _first_row(self) -> int:
        """All distances are inf: a draw, rank 0's, if one was asked for, else the lowest row of positive weight."""
        if self.generator is not None:
            drawn = torch.randint(self.n, (1,), generator=self.generator, device=self.generator.device)
            return int(self.ranks.gather(drawn.cpu())[0])
        offset = sum(self.counts[: self.ranks.rank])
        own = [] if self.weight is None else self.weight.nonzero()[:1, 0].tolist()
        found = self.ranks.gather(torch.tensor([row + offset for row in own], dtype=torch.int64))
        return int(found[0]) if found.shape[0] else 0

    def _start_squared(self, start: int, vector: Tensor, picked: Tensor) -> float:
        local = start - sum(self.counts[: self.ranks.rank])
        owned = 0 <= local < self.features.shape[0]
        known = self.initial[local : local + 1].cpu() if owned and self.started else torch.full((int(owned),), math.inf)
        squared = float(self.ranks.gather(known.double())[0])
        if picked.shape[0]:
            zero = torch.zeros(picked.shape[0], dtype=torch.int64)
            squared = min(squared, float(paired_squared(vector, zero, picked, torch.arange(picked.shape[0])).min()))
        return squared


def _plain(value: Any) -> Any:
    """A number as it can be compared between processes; what is none is refused later, by name."""
    return value if isinstance(value, (int, float, type(None))) else str(value)


def _numbers(
    name: str, selected: Tensor | Sequence[int] | None, k: Any, start: Any, n: int
) -> tuple[Tensor, int, int | None]:
    """Checked: rows picked before [S] int64 ascending, k, the first pick."""
    rows = torch.empty(0, dtype=torch.int64)
    if selected is not None:
        rows = check_rows(name, "selected", selected, n, torch.device("cpu")).unique()
    k = check_int(name, "k", k, 1, n - rows.shape[0], f" (N = {n}, already selected = {rows.shape[0]})")
    if start is not None:
        start = check_int(name, "start", start, 0, n - 1)
        if bool((rows == start).any()):
            raise ValueError(f"{name}: start = {start} is among the rows in selected")
    return rows, k, start


def _resolve(
    rows: Tensor, squared: Tensor, weight: Tensor | None, outside: Rank | None, quota: int, block: int
) -> tuple[list[int], list[float]]:
    """Greedy over candidates: places and squared distances of the picks. On the CPU, where all ranks get the same."""
    leaves = choose_backend("k_center_greedy", "auto", rows.device).k_center(
        block_job("k_center_greedy", rows, squared, weight, block)
    )
    assert isinstance(leaves, Stepwise)
    found = leaves.steps.resolve(torch.arange(rows.shape[0]), outside, quota, block)
    return found.rows, found.squared
