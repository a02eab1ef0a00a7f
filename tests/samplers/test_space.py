"""Rows that are read part by part: the same picks as from the rows themselves."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.model import room
from patchcore_fast.samplers import (
    ApproximateGreedyCoresetSampler,
    ELFSCoresetSampler,
    GreedyCoresetSampler,
    IdentitySampler,
    PrecomputedSampler,
    RandomSampler,
)
from patchcore_fast.samplers import space as module
from patchcore_fast.samplers.space import projected_columns, space_of

X = torch.randn(500, 150, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "sampler",
    [GreedyCoresetSampler(0.1), ApproximateGreedyCoresetSampler(0.1, seed=4), RandomSampler(0.1), IdentitySampler(),
     PrecomputedSampler([4, 499])],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_the_picks_are_those_of_the_rows(monkeypatch, sampler):
    monkeypatch.setattr(module, "_PART_BYTES", 8 * 150 * 64)
    read: list[tuple[int, int]] = []

    def part(low: int, high: int) -> torch.Tensor:
        read.append((low, high))
        return X[low:high]

    wanted = sampler.select(X)
    projection = sampler.projection_
    seen, matrix = space_of(sampler, 500, 150, part)
    assert seen is not None and torch.equal(sampler.select(seen), wanted)
    assert (matrix is None) == (projection is None) and (matrix is None or torch.equal(matrix, projection))
    assert [high - low for low, high in read] == ([64] * 7 + [52] if matrix is not None else [])


def test_others_look_at_the_rows_themselves():
    class Own(GreedyCoresetSampler):
        pass

    plain = GreedyCoresetSampler(0.1, dimension_to_project_features_to=None)
    for sampler in (plain, Own(0.1), ELFSCoresetSampler(0.1), object()):
        assert space_of(sampler, 500, 150, lambda low, high: X[low:high]) == (None, None)
    assert projected_columns(GreedyCoresetSampler(0.1), 128) is None
    assert projected_columns(GreedyCoresetSampler(0.1), 129) == 128


def test_samplers_that_look_at_no_row_are_named_once():
    assert room.is_blind is module.is_blind
    assert set(module.BLIND) == {
        RandomSampler,
        IdentitySampler,
        PrecomputedSampler,
    }
    for kind in module.BLIND:
        sampler = kind(0.1) if kind is RandomSampler else kind([4]) if kind is PrecomputedSampler else kind()
        assert module.is_blind(sampler)
        assert torch.equal(sampler.select(torch.zeros(500, 1)), sampler.select(X))
