"""Which training images are kept for the threshold while all stream by."""

from __future__ import annotations

import torch

from patchcore_fast.methods.held_out import Kept


def numbers(count: int, batch: int, most: int) -> list[int]:
    kept = Kept(most)
    for part in torch.arange(count).float()[:, None].split(batch):
        kept.add(part)
    held = [int(x) for x in kept.take(torch.arange(len(kept)))[:, 0]]
    folds = [held[i] for fold in kept.folds() for i in fold.tolist()]
    assert sorted(folds) == held or count == 1
    return held


def test_all_are_kept_until_there_are_too_many_then_evenly_spread_ones_whatever_the_batches():
    assert numbers(8, 3, most=8) == list(range(8))
    for batch in (1, 4, 50):
        assert numbers(9, batch, most=8) == [0, 2, 4, 6, 8]
        assert numbers(50, batch, most=8) == list(range(0, 50, 8))


def test_a_single_image_is_in_no_fold():
    kept = Kept()
    kept.add(torch.zeros(1, 4))
    assert list(kept.folds()) == []
