"""What is shared is what each selection computes by itself, and its time and memory are counted in every row."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.experiments.combinations import grid, steps
from patchcore_fast.experiments.signals import Signals
from patchcore_fast.experiments.trial import sampler_of
from patchcore_fast.samplers import composite

from ..patches import fields

CPU = torch.device("cpu")
X = fields(4, (8, 8), d=12, seed=1)
PLAN = grid((-1.0, 0.0, 0.5), (10, 30), (0, 1), ("composite", "diversity"), [0.1], [0], limit=12)[0]
PLAN += [c for c in steps([0.05], [0, 1]) if c.sampler == "composite"]


def test_picks_and_scores_are_those_of_the_sampler_alone():
    shared = Signals()
    for c in PLAN:
        alone, together = sampler_of(c, CPU), sampler_of(c, CPU)
        assert shared.select(together, X).tolist() == alone.select(X).tolist(), c.name
        if c.sampler == "composite":
            assert together.scores_.keys() == alone.scores_.keys()
            assert all((together.scores_[k] == alone.scores_[k]).all() for k in alone.scores_)
            assert (together.pool_ == alone.pool_).all()


def test_each_is_computed_once(monkeypatch):
    calls = []
    for name in ("distance_to_centre", "density", "third"):
        found = getattr(composite, name)

        def counting(x, options, *rest, found=found, name=name, **common):
            o = options
            by = {"density": (o.density, o.density_subsample), "third": (o.noise_T,)}.get(name, ())
            calls.append((name, common["seed"], *by))
            return found(x, options, *rest, **common)

        monkeypatch.setattr(composite, name, counting)
    shared = Signals()
    for c in PLAN:
        shared.select(sampler_of(c, CPU), X)
    assert len(calls) == len(set(calls))
    assert {c[0] for c in calls} == {"distance_to_centre", "density", "third"}


def test_what_was_there_counts_as_if_it_had_been_computed():
    shared, c = Signals(), next(c for c in PLAN if c.options.get("pool") == "diversity" and c.options["noise_T"])
    first = sampler_of(c, CPU)
    shared.select(first, X)
    assert shared.seconds == shared.cpu_seconds == shared.memory == 0
    shared.took(first, 0)
    shared.select(sampler_of(c, CPU), X)
    parts = first.report_["seconds"]
    own = sum(parts[name] for name in ("representativeness", "density", "instability", "pool"))
    assert 0 < shared.seconds <= own
    assert shared.memory == pytest.approx(max(first.report_["memory"][p] for p in parts if p != "select"), rel=0.01)
