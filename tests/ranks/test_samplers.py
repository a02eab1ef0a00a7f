"""Samplers with a group: the selection of one process, whatever the shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchcore_fast.samplers import PrecomputedSampler, make_sampler
from patchcore_fast.samplers.measures import farthest_from_mean, rows_at_a_time
from patchcore_fast.samplers.shards import Shards

from ..kernels.cases import awkward, gaussian, integers
from .selections import own, parts

WIDE = gaussian(900, 300, seed=2)


def sample(group, rank, name, x, counts, options):
    """Numbers, radii and rows that this rank gets."""
    sampler = PrecomputedSampler([5, 899, 2]) if name == "precomputed" else make_sampler(name, 0.1, **options)
    sampler.group = group
    rows = sampler.run(own(x, rank, counts))
    return sampler.indices_, sampler.radii_, rows


def farthest(group, rank, x, counts):
    from patchcore_fast.kernels.ranks import Ranks

    return Shards(Ranks("test", group), own(x, rank, counts)).farthest_from_mean()


@pytest.mark.parametrize("name", ["greedy", "approximate", "random", "identity", "precomputed"])
def test_selections(workers, name):
    for options in ({}, {"projection": None, "seed": 3}):
        for x in (WIDE, WIDE.numpy(), WIDE.half()):
            alone = PrecomputedSampler([5, 899, 2]) if name == "precomputed" else make_sampler(name, 0.1, **options)
            indices = alone.select(x)
            for size in (1, 3):
                for found, radii, rows in workers.call(sample, size, name, x, parts(900, size), options):
                    assert torch.equal(found, indices)
                    assert (radii is None) == (alone.radii_ is None)
                    assert radii is None or torch.equal(radii, alone.radii_)
                    assert np.array_equal(np.asarray(rows), np.asarray(x[indices]))


def test_the_start_does_not_hang_on_the_shards(workers):
    """Sums are of blocks of the whole, which ranks cut anywhere."""
    assert len(WIDE) > rows_at_a_time(300)  # several blocks
    cases = {"wide": WIDE, **{name: awkward()[name] for name in ("integers", "duplicates", "mixed sizes")}}
    for x in (*cases.values(), integers(5000, 130)):
        expected = farthest_from_mean(x)
        for size in (2, 7):
            assert set(workers.call(farthest, size, x, parts(len(x), size))) == {expected}
