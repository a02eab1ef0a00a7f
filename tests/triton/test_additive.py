"""Greedy by alpha * distance + gain over Triton's search, in the interpreter where there is no CUDA device."""

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels import additive_greedy
from patchcore_fast.kernels.kcenter.reference import additive_greedy_reference

from ..kernels.cases import integers
from .knn_helpers import DEVICE


def test_picks_are_those_of_the_loop(small_tiles):
    x = integers(40, 4)
    gain = torch.randint(-2, 3, (40,), generator=torch.Generator().manual_seed(0)).float()
    indices, radii = additive_greedy_reference(x, 12, gain)
    found = additive_greedy(x.to(DEVICE), 12, gain.to(DEVICE), backend="triton")
    assert found.indices.tolist() == indices.tolist() and torch.equal(found.radii.cpu(), radii)
