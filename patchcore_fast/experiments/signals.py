"""What many combinations share (signals of the composite sampler, its coarse greedy), computed once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from patchcore_fast.samplers import ELFSCoresetSampler
from patchcore_fast.samplers.composite import Composite
from patchcore_fast.samplers.composite_options import CompositeOptions

# Options that a signal does not depend on, so that settings which differ in them alone share it.
_WEIGHED = ("w_repr", "w_density", "w_unc", "pool", "topk_pool_multiplier", "min_pool", "alpha", "beta", "clean")
_NOISE = ("instability", "noise_std", "noise_T", "batch_size_instability")
_DENSITY = ("density", "k_density", "density_subsample")
_OF = {"representativeness": ("repr", "n_clusters"), "density": _DENSITY, "instability": _NOISE, "coarse": ()}


@dataclass(frozen=True)
class _Kept:
    value: torch.Tensor
    seconds: float
    cpu_seconds: float
    memory: int  # bytes that this added at its peak


def memory_of(sampler: Any) -> dict[str, int]:
    """Part of the selection -> bytes in use at its peak, of samplers that report it."""
    return dict(getattr(sampler, "report_", {}).get("memory", {}))


class Signals:
    """A store of what selections of the same rows share; each value is what the sampler would compute by itself.

    For one matrix of features: take another store for another one.

    Attributes
    ----------
    seconds, cpu_seconds, memory : what the last `select` would have taken beside what it did take: the time of what was
        there already, and the bytes that the largest of these added at its peak.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._kept: dict[tuple[Any, ...], _Kept] = {}
        self._fresh: list[tuple[Any, ...]] = []
        self.seconds = self.cpu_seconds = 0.0
        self.memory = 0

    def select(self, sampler: Any, features: torch.Tensor, **where: Any) -> torch.Tensor:
        """What `sampler.select(features, **where)` gives: [k] int64."""
        self.seconds = self.cpu_seconds = 0.0
        self.memory, self._fresh = 0, []
        if isinstance(sampler, ELFSCoresetSampler) and sampler.composite is not None and "views" not in where:
            sampler.composer = self._composer
        return sampler.select(features, **where)

    def took(self, sampler: Any, before: int | None) -> None:
        """Note the memory of what the last selection computed, of which there were `before` bytes before it."""
        if before is None:
            return
        peaks = memory_of(sampler)
        for key in self._fresh:
            peak = peaks.get("pool" if key[0] == "coarse" else key[0], 0)
            self._kept[key] = replace(self._kept[key], memory=max(0, peak - before))

    def get(self, key: tuple[Any, ...], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The value of a key, computed where it is not there."""
        if (kept := self._kept.get(key)) is not None:
            self.seconds, self.cpu_seconds = self.seconds + kept.seconds, self.cpu_seconds + kept.cpu_seconds
            self.memory = max(self.memory, kept.memory)
            return kept.value
        clock, cpu = time.perf_counter(), time.process_time()
        value = compute()
        self._kept[key] = _Kept(value, time.perf_counter() - clock, time.process_time() - cpu, 0)
        self._fresh.append(key)
        return value

    def _composer(self, *given: Any) -> Composite:
        made = _Sharing(*given)
        made.signals_of = self
        return made


class _Sharing(Composite):
    signals_of: Signals

    def measured(self, what: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """See `Composite.measured`. Signals without a row in _OF go by all options but the weights and the pool's."""
        options: CompositeOptions = self.options
        names = _OF.get(what) if options.instability in (None, "noise") or what != "instability" else None
        facts = options.facts()
        by = [name for name in facts if name not in _WEIGHED] if names is None else names
        size = (self.wanted,) if what == "coarse" else ()
        key = (what, self.seed, self.x.shape[1], *size, *(facts[name] for name in by))
        return self.signals_of.get(key, compute)

    def _first(self, size: int, count: int) -> torch.Tensor:
        self.wanted = size
        return super()._first(size, count)
