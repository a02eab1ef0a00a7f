"""A rank that dies, or cannot be reached: the others say which one, soon, and none hangs."""

from __future__ import annotations

import os
import pickle
import signal
import time
from datetime import timedelta

import pytest

from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.ranks import RankError
from patchcore_fast.kernels.ranks.kcenter import RankTraversal

from ..kernels.cases import gaussian
from .selections import SMALL
from .workers import Workers

X = gaussian(400, 16)
_TIMEOUT = 10  # seconds of the group


def dying(group, rank, victim, step, how):
    """A selection in which one rank ends or stops at its step-th pass."""
    passes, real = [], RankTraversal._pass

    def some(self, *arguments):
        passes.append(1)
        if rank == victim and len(passes) == step:
            os.kill(os.getpid(), how)
        return real(self, *arguments)

    RankTraversal._pass = some
    begun = time.monotonic()
    try:
        k_center_greedy(X[100 * rank : 100 * rank + 100], 300, group=group, tuning=SMALL)
    except RankError as error:
        return str(error), time.monotonic() - begun
    finally:
        RankTraversal._pass = real
    return "made", 0.0


@pytest.mark.parametrize(
    "victim, how",
    [
        pytest.param(2, signal.SIGKILL, marks=pytest.mark.thorough),  # test_command kills one, too
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.thorough),
        pytest.param(3, signal.SIGSTOP, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_the_others_say_who(victim, how):
    workers = Workers(4, sizes=(4,), timeout=timedelta(seconds=_TIMEOUT))
    try:
        workers.ask(dying, 4, victim, 3, how)
        if how == signal.SIGSTOP:
            found = []
            for rank, pipe in enumerate(workers.pipes):
                if rank != victim:
                    assert pipe.poll(_TIMEOUT + 10), f"rank {rank} hangs"
                    found.append(pickle.loads(pipe.recv_bytes()))
        else:
            found = [answer for rank, answer in enumerate(workers.answers(4, _TIMEOUT + 10)) if rank != victim]
        for words, seconds in found:
            assert f"k_center_greedy: rank {victim} of 4 has died or cannot be reached; " in words, found
            assert " of 300 picks were made" in words
            assert seconds < _TIMEOUT + 5
    finally:
        for process in workers.processes:
            process.kill()
        workers.close()
