"""A pytest plugin for patchcore-inspection's own tests: our samplers in place of theirs, and nothing skipped.

Their tests are skipped without a GPU, decided while they are collected, though all of them compute on the CPU.
"""

from __future__ import annotations

import patchcore.sampler
import pytest
import torch

from patchcore_fast.compat import amazon

_is_available = torch.cuda.is_available


def pytest_configure() -> None:
    amazon.install()
    torch.cuda.is_available = lambda: True


def pytest_collection_finish() -> None:
    torch.cuda.is_available = _is_available


@pytest.fixture(autouse=True)
def ours():
    """Every single test runs on our classes."""
    assert patchcore.sampler.ApproximateGreedyCoresetSampler is amazon.ApproximateGreedyCoresetSampler
