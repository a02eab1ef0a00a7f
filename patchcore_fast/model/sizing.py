"""From a budget to a number of rows, and what fewer rows would give (docs/budget.md)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from patchcore_fast.bank_size import BankSize, Step
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.budget import parse_budget, percentage_of
from patchcore_fast.kernels import knn
from patchcore_fast.kernels.processors import processor_name
from patchcore_fast.model.collect import Rows
from patchcore_fast.model.pricing import FEWEST
from patchcore_fast.samplers import GreedyCoresetSampler

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the bank, on the curve
_BANK, _RUNS = 8192, 5  # rows of the larger bank that is searched to measure; runs of each


@dataclass(frozen=True)
class SearchTime:
    """The search for one image takes `fixed` + `each` * rows seconds on `device`, in as many rows of each layer."""

    device: str
    fixed: float
    each: float


def row_bytes(config: PatchCoreConfig, widths: Sequence[int], itemsize: int, images: int) -> int:
    """Of one row of each layer, with the column of the price where rows have one."""
    price = 1 if config.search.price > 0 and images >= FEWEST else 0
    return sum(width + price for width in widths) * itemsize


def chosen_rows(config: PatchCoreConfig, total: int, layers: int, each: int, spent: SearchTime | None) -> int:
    """Rows of each layer's bank, at most `total`.

    Parameters
    ----------
    layers : banks that share the budget.  each : `row_bytes`.  spent : wanted for a budget in time.

    Raises
    ------
    ValueError : the budget is too small for a row.
    """
    budget = parse_budget(str(config.selection.budget))
    if budget.kind == "rows":
        found, least = budget.amount / layers, f"{layers} rows, one of each layer,"
    elif budget.kind == "bytes":
        found, least = budget.amount / each, f"{each:,} bytes"
    else:
        assert spent is not None
        found = (budget.amount - spent.fixed) / spent.each
        least = f"{1000 * (spent.fixed + spent.each):.3g} ms"
    if found < 1:
        raise ValueError(f"PatchCore.fit: budget {config.selection.budget} holds no row: {least} are wanted at least")
    return int(min(found, total))


def search_seconds(query: torch.Tensor, bank: torch.Tensor, k: int) -> float:
    """Of one search of query [P, D] in a bank [M, D]."""
    clock = time.perf_counter()
    knn(query, bank, k)
    if bank.device.type == "cuda":
        torch.cuda.synchronize(bank.device)
    return time.perf_counter() - clock


def measured(layers: Sequence[torch.Tensor], patches: int, config: PatchCoreConfig, device: torch.device) -> SearchTime:
    """The search for one image, measured here by its patches in two banks of training rows.

    Parameters
    ----------
    layers : rows [n, D] of each layer, the first `patches` of one image.
    """
    count = len(layers[0])
    large = min(count, _BANK)
    small = min(large, max(config.search.neighbours, large // 4))
    pad = (0, 1 if config.search.price > 0 else 0)
    fixed, each = 0.0, 0.0
    for rows in layers:
        at = torch.linspace(0, count - 1, large).long()
        query, bank = F.pad(rows[:patches], pad).to(device), F.pad(rows[at], pad).to(device)
        k = min(config.search.neighbours, small)
        seconds: dict[int, list[float]] = {small: [], large: []}
        search_seconds(query, bank, k)  # compiles, loads
        for _ in range(_RUNS):
            for size in seconds:
                seconds[size].append(search_seconds(query, bank[:size], k))
        low, high = median(seconds[small]), median(seconds[large])
        slope = (high - low) / (large - small) if large > small and high > low else high / large
        each += slope
        fixed += max(0.0, high - slope * large)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return SearchTime(name, fixed, each)


class Sizing:
    """The budget of a fit.

    Attributes
    ----------
    rows : of each layer's bank.  percentage : what the sampler is told.  counts : rows of each step of the curve.
    """

    def __init__(
        self,
        config: PatchCoreConfig,
        layers: Sequence[Rows],
        images: int,
        device: torch.device,
        chosen: int | None = None,
    ) -> None:
        """Measure where the budget is a time, on the first rank that has rows, and settle the size.

        layers : the training rows of each layer, or of all in one.  images : without copies.
        chosen : rows of each layer that were chosen by this budget already; the time may have been another then.
        """
        self.config, self.total, self.layers = config, layers[0].total, len(layers)
        self.each = row_bytes(config, [rows.columns for rows in layers], layers[0].dtype.itemsize, images)
        timed = parse_budget(str(config.selection.budget)).kind == "seconds"
        self.spent = _agreed(layers, config, device) if timed else None
        found = chosen_rows(config, self.total, self.layers, self.each, self.spent)
        self.rows = chosen if timed and chosen else found
        self.percentage = percentage_of(self.rows, self.total)
        least = min(config.search.neighbours, self.rows)
        self.counts = sorted({max(least, int(share * self.rows)) for share in SHARES})

    def within(self, count: int, left: int, chosen: int) -> int:
        """Rows that a bank of `count` rows has in a fold that leaves `left` rows, of the `chosen` it has of all."""
        if count >= self.rows:
            return chosen
        return min(chosen, int(left * percentage_of(count, self.total)))

    def facts(self, radii: Sequence[torch.Tensor | None], scores: Sequence[Sequence[float]], rows: int) -> BankSize:
        """For the bank.

        Parameters
        ----------
        radii : of each layer's picks, where all are exact greedy's.  scores : of held-out images, a list a count.
        rows : that the bank has, of all layers.
        """
        known = [r for r in radii if r is not None]
        curve = []
        for count, found in zip(self.counts, scores, strict=True):
            reach = tuple(covering(r, count) for r in known) if len(known) == len(radii) else ()
            curve.append(Step(count * self.layers, reach if all(map(isfinite, reach)) else (),
                              float(median(found)) if found else None))  # fmt: skip
        made = BankSize(str(self.config.selection.budget), rows, rows // self.layers * self.each, curve=tuple(curve))
        if (spent := self.spent) is None:
            return made
        return replace(made, device=spent.device, fixed_ms=1000 * spent.fixed, row_ms=1000 * spent.each / self.layers)


def covering(radii: torch.Tensor, count: int) -> float:
    """Distance within which all rows lie of the first `count` picks of exact greedy; infinite for a single one.

    The last of them was the farthest of all rows from the others. Distances are rounded, perhaps down.
    """
    return float(torch.nextafter(radii[count - 1], torch.tensor(torch.inf)))


def greedy_radii(sampler: Any) -> torch.Tensor | None:
    """Of a sampler whose first picks are those of a smaller bank, with distances to the earlier ones: exact greedy."""
    return sampler.radii_ if type(sampler) is GreedyCoresetSampler else None


def _agreed(layers: Sequence[Rows], config: PatchCoreConfig, device: torch.device) -> SearchTime:
    local, ranks = [rows.local for rows in layers], layers[0].ranks

    def here() -> SearchTime | None:
        if layers[0].first or not local[0].total:
            return None
        patches = local[0].grids[0][0] * local[0].grids[0][1]
        return measured([_sample(rows, patches) for rows in local], patches, config, device)

    found = here() if ranks is None else next(told for told in ranks.tell(ranks.agree(here)) if told is not None)
    assert found is not None
    return found


def _sample(rows: Rows, patches: int) -> torch.Tensor:
    """The rows of the first image, and behind them others, evenly spread."""
    rest = torch.linspace(0, rows.total - 1, min(rows.total, _BANK)).long()
    return torch.cat([rows.read(0, patches), rows.take(rest)])
