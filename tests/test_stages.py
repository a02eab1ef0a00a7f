"""Seconds by stage: of whoever asks, from any thread."""

from __future__ import annotations

import threading
import time

from patchcore_fast.stages import stage, stages


def test_stages_add_up_in_all_that_are_open() -> None:
    def work() -> None:
        with stage("slow"):
            time.sleep(0.02)

    with stages() as outer:
        work()
        with stages() as inner:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            with stage("other"):
                pass
    work()  # nobody asks
    assert 0.02 <= inner["slow"] < outer["slow"] and outer["slow"] >= 0.04
    assert list(inner) == ["slow", "other"] and inner["other"] < 0.02


def test_one_that_ends_leaves_an_equal_one_open() -> None:
    with stages() as outer:
        with stages():
            pass  # both are empty here
        with stage("after"):
            pass
    assert list(outer) == ["after"]
