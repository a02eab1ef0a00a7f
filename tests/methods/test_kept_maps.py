"""Maps that are kept come out as they went in, by number, whatever the blocks."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.methods import kept_maps


@pytest.mark.parametrize("count", [None, 7, 9], ids=["unknown", "known", "fewer come"])
def test_images_by_number(count, monkeypatch):
    monkeypatch.setattr(kept_maps, "_BLOCK", 3)
    drawn = torch.Generator().manual_seed(0)
    maps = [torch.randn(7, 2, 3, 3, generator=drawn), torch.randn(7, 4, 1, 2, generator=drawn)]
    kept = kept_maps.KeptMaps(count)
    for first, last in ((0, 2), (2, 6), (6, 7)):
        kept.add([m[first:last] for m in maps])
    assert kept.count == 7
    numbers = torch.tensor([6, 0, 3, 3])
    for found, m in zip(kept.take(numbers, torch.device("cpu")), maps, strict=True):
        assert torch.equal(found, m[numbers])
    parts = [found[1] for found in kept.batches(numbers, 3, torch.device("cpu"))]
    assert [len(p) for p in parts] == [3, 1] and torch.equal(torch.cat(parts), maps[1][numbers])
