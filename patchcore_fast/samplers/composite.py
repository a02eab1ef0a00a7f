"""The composite preset: three signals make one number a row, the best rows a pool, and greedy covers the pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels import additive_greedy, k_center_greedy
from ..progress import bar
from ..scores import Layout
from .composite_options import CompositeOptions
from .composite_signals import density, distance_to_centre, normalised, row_labels, third
from .given import given
from .measures import farthest_from_mean
from .parts import Parts


@dataclass
class Composite:
    """One selection. `signals`, then `choose`.

    scores : signal -> [N] float32, as measured; "composite" is their weighted sum after normalisation.
    pool : [N] bool.  cleaned : how many picks were replaced.
    """

    name: str
    options: CompositeOptions
    x: Tensor  # [N, d], where the selection looks at
    parts: Parts
    seed: int
    backend: str
    show: bool | None
    progress: Callable[[int, int], None] | None

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self.scores: dict[str, Tensor] = {}
        self.pool = torch.zeros(self.x.shape[0], dtype=torch.bool)
        self.cleaned = 0

    def signals(
        self, features: Tensor, matrix: Tensor | None, layout: Layout | None, views: Any, pseudo_labels: Any,
        image_embeddings: Any, scores: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Measure all three, or take them of `scores`, and add them up. matrix : of the projection, if there is one."""
        options = self.options
        common: dict[str, Any] = {"seed": self.seed, "device": self.x.device, "progress": self.show}
        known = {part: given(part, options, scores or {}) for part in ("representativeness", "density", options.third)}
        classes = (features, layout, pseudo_labels, image_embeddings, options.n_clusters)
        measures: dict[str, Callable[[], Tensor]] = {
            "representativeness": lambda: distance_to_centre(self.x, options, **common),
            "density": lambda: density(self.x, options, **common),
        }
        if options.instability is not None:
            measures[options.third] = lambda: third(
                self.x, options, views, matrix, row_labels(self.name, *classes, **common), **common
            )
        for what, there in known.items():
            if there is not None:
                self.scores[what] = there
            elif what in measures:
                with self.parts(what):
                    self.scores[what] = self.measured(what, measures[what])
        weights = {"representativeness": options.w_repr, "density": options.w_density, options.third: options.w_unc}
        self.value = torch.zeros(self.x.shape[0], dtype=torch.float64)
        for what, signal in self.scores.items():
            self.value += weights[what] * normalised(signal)
        self.scores["composite"] = self.value.float()

    def measured(self, what: str, compute: Callable[[], Tensor]) -> Tensor:
        """A signal [N], or the first picks of plain greedy ("coarse"); here is where many selections may share them."""
        return compute()

    def choose(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The picks [count] int64 on the CPU, and their distances to earlier ones [count] float32, if known."""
        with self.parts("pool"):
            size = self.options.pool_size(count, self.x.shape[0])
            rows = self._ranked()[:size] if self.options.pool == "composite" else self._first(size, count)
            self.pool[rows] = True
        with self.parts("select"):
            picks, radii = self._grow(self.pool, count, torch.empty(0, dtype=torch.int64), self.progress)
        if self.options.clean:
            with self.parts("clean"):
                return self._clean(picks, radii)
        return picks, radii

    def _ranked(self, rows: Tensor | None = None) -> Tensor:
        """Numbers of rows (all if None), the largest composite first, of equal ones the first."""
        value = self.value if rows is None else self.value[rows]
        order = value.argsort(descending=True, stable=True)
        return order if rows is None else rows[order]

    def _first(self, size: int, count: int) -> Tensor:
        return self.measured("coarse", lambda: self._coarse(size, count))

    def _coarse(self, size: int, count: int) -> Tensor:
        """The first picks of plain greedy over all rows."""
        start = farthest_from_mean(self.x)
        with bar(size, "coarse greedy", self.show) as done:

            def told(made: int, of: int) -> None:
                done.at(made, of)
                if self.progress is not None and self._by_rank:
                    self.progress(made * count // of, count)

            return k_center_greedy(self.x, size, start=start, backend=self.backend, progress=told).indices.cpu()

    @property
    def _by_rank(self) -> bool:
        """Whether the pool is refined by the composite alone, without distances."""
        return self.options.pool == "refined"

    def _grow(
        self, allowed: Tensor, count: int, kept: Tensor, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The next `count` picks among the allowed rows ([N] bool) after those kept [S], and their distances."""
        options, device = self.options, self.x.device
        if self._by_rank:
            return self._ranked(allowed.nonzero().squeeze(1))[:count], None
        inside = allowed.clone()
        inside[kept] = True
        rows = inside.nonzero().squeeze(1)  # ascending: ties go to the lowest row
        x = self.x if rows.shape[0] == self.x.shape[0] else self.x[rows.to(device)]
        common: dict[str, Any] = {"backend": self.backend}
        if kept.shape[0]:
            common["selected"] = torch.searchsorted(rows, kept).to(device)
        with bar(count, "picks", False if progress is not None else self.show) as done:
            common["progress"] = progress or done.at
            if options.alpha:
                gain = (options.beta * self.value[rows]).to(device)
                found = additive_greedy(x, count, gain, alpha=options.alpha, **common)
            else:
                start = None if kept.shape[0] else self._start(x, rows)
                found = k_center_greedy(x, count, start=start, **common)
        return rows[found.indices.cpu()], found.radii.cpu()

    def _start(self, x: Tensor, rows: Tensor) -> int:
        """The first of the pool: in one of greedy's own picks the best, or k-center would be that greedy once more."""
        if self.options.pool == "composite":
            return farthest_from_mean(x)
        value = self.value[rows]
        return int((value == value.max()).nonzero()[0])

    def _clean(self, picks: Tensor, radii: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Drop the picks of lowest composite, of equal ones the latest, and let the selection go on without them."""
        n, count = self.x.shape[0], picks.shape[0]
        self.cleaned = min(round(self.options.clean * count), n - count)
        if not self.cleaned:
            return picks, radii
        order = self.value[picks].argsort(descending=True, stable=True)
        stay = order[: count - self.cleaned].sort().values
        spare = self.pool.clone()
        spare[picks] = False
        if (short := self.cleaned - int(spare.sum())) > 0:  # the pool holds too few: the best of the others
            others = torch.ones(n, dtype=torch.bool)
            others[picks] = False
            others[self.pool] = False
            more = self._ranked(others.nonzero().squeeze(1))[:short]
            spare[more] = self.pool[more] = True
        new, reach = self._grow(spare, self.cleaned, picks[stay])
        after = None if radii is None or reach is None else torch.cat([radii[stay], reach])
        return torch.cat([picks[stay], new]), after
