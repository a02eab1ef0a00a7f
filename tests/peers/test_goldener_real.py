"""goldener's own k-center tool before and after install(). How it is found: repositories.py."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.compat import goldener

from .draws import integers
from .repositories import peer_module


@pytest.mark.parametrize("anchors", [None, 4])
@pytest.mark.parametrize("distance", ["EUCLIDEAN", "COSINE"])
def test_goldener(distance: str, anchors: int | None) -> None:
    theirs = peer_module("goldener.select")
    tool = theirs.GoldGreedyKCenterSelectionTool("cpu", theirs.DistanceType[distance])
    x = torch.randn(300, 12, generator=torch.Generator().manual_seed(0)).double()
    given = None if anchors is None else torch.randn(anchors, 12, generator=torch.Generator().manual_seed(1)).double()
    wanted = tool.select(x, 60, given)
    with goldener.install():
        assert tool.select(x, 60, given) == wanted
    few = integers(20, 3, 3).double()  # fewer than 26 rows: torch.cdist is then exact
    wanted = tool.select(few, 15)
    with goldener.install():
        assert distance == "COSINE" or tool.select(few, 15) == wanted
