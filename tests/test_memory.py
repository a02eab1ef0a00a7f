"""PeakMemory: what a block holds at its peak is seen, and nothing of it stays."""

import threading

import numpy as np
import pytest

from patchcore_fast.memory import PeakMemory


def test_a_block_that_holds_more_has_a_higher_peak():
    with PeakMemory() as small:
        pass
    if not small.peak:
        pytest.skip("this system does not tell what is resident")
    with PeakMemory() as large:
        held = np.ones(64 << 20, np.uint8)
        del held
    with PeakMemory() as after:
        pass
    assert small.peak > 1 << 20 and large.peak >= small.peak + (48 << 20)
    assert after.peak < large.peak - (32 << 20)  # not the process's high-water mark


def test_the_watch_ends_with_the_block_and_with_an_error():
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), PeakMemory() as watched:
        assert threading.active_count() == before + 1
        1 / 0  # noqa: B018
    assert threading.active_count() == before and watched.peak >= 0
