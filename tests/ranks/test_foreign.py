"""Distances to other images over ranks: what one process finds, bit for bit, whatever the shards."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.errors import RankError
from patchcore_fast.scores import support_distance

from ..patches import fields, positions
from ..scores.test_foreign import crowds
from .selections import own, parts


def found(group, rank, x, ids, indices, counts, chunk_size, every=1):
    given = support_distance(own(x, rank, counts), indices, image_ids=own(ids, rank, counts), group=group,
                             chunk_size=chunk_size, every=every)  # fmt: skip
    return given.distance, given.row


def sets():
    fine, ids = fields(9, (5, 6), seed=1), positions(9, (5, 6))[:, 0]
    order = torch.randperm(270, generator=torch.Generator().manual_seed(0))
    crowd, of = crowds(6, 40)
    lattice = torch.randint(0, 3, (240, 3), generator=torch.Generator().manual_seed(0)).float()
    rounded = torch.cat([torch.tensor([[1.0, 1e-5], [1.0, 0.0]]), 1e-4 * torch.ones(38, 2)])  # equal in float32
    return {
        "fields": (fine, ids), "any order": (fine[order], ids[order]), "half": (fine.half(), ids),
        "crowds": (crowd, of), "ties": (lattice, torch.arange(240) // 20),
        "rounded": (rounded, torch.tensor([1, 2] + [0] * 38)), "one image": (fine, torch.zeros_like(ids)),
    }  # fmt: skip


@pytest.mark.parametrize("name", sets())
def test_as_in_one_process(workers, name):
    x, ids = sets()[name]
    some = torch.arange(len(x)).flip(0)[::7]
    for indices in (None, some, some[:0]):
        alone = support_distance(x, indices, image_ids=ids)
        for size, chunk_size in ((1, 16), (2, 1 << 16), (3, 16), (7, 1 << 16)):
            told = workers.call(found, size, x, ids, indices, parts(len(x), size), chunk_size)
            assert all(torch.equal(d, alone.distance) and torch.equal(r, alone.row) for d, r in told)


@pytest.mark.parametrize("name", ["fields", "any order", "crowds"])
def test_among_some_rows_as_in_one_process(workers, name):
    x, ids = sets()[name]
    alone = support_distance(x, image_ids=ids, every=5)
    assert not torch.equal(alone.row, support_distance(x, image_ids=ids).row)
    for size in (2, 3):
        told = workers.call(found, size, x, ids, None, parts(len(x), size), 16, 5)
        assert all(torch.equal(d, alone.distance) and torch.equal(r, alone.row) for d, r in told)


def test_what_one_rank_gives_wrong_ends_all(workers):
    x, ids = sets()["fields"]
    workers.ask(wrong, 3, x, ids)
    answers = workers.answers(3)
    assert isinstance(answers[1], ValueError) and "indices must lie in 0..269, got 0 to 999" in str(answers[1])
    for error in (answers[0], answers[2]):
        assert isinstance(error, RankError) and "rank 1 of 3 has failed: ValueError: support_distance" in str(error)
    workers.ask(differing, 2, x, ids)
    assert all("indices must be the same on all ranks" in str(e) for e in workers.answers(2))


def wrong(group, rank, x, ids):
    return found(group, rank, x, ids, [0, 999 if rank == 1 else 1], [90, 90, 90], 64)


def differing(group, rank, x, ids):
    return found(group, rank, x, ids, [0, rank], [135, 135], 64)
