"""Where the time of a prediction goes: seconds by stage, of a program that asks for them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_records: list[dict[str, float]] = []  # of the `stages` that are open


@contextmanager
def stages() -> Iterator[dict[str, float]]:
    """Stage -> seconds of all that `stage` measures inside the block, in any thread."""
    taken: dict[str, float] = {}
    _records.append(taken)
    try:
        yield taken
    finally:
        del _records[next(i for i, other in enumerate(_records) if other is taken)]  # an equal one may be open too


@contextmanager
def stage(name: str) -> Iterator[None]:
    """The block is a stage; costs nothing where no `stages` is open. On a GPU what was launched is waited for."""
    if not _records:
        yield
        return
    _wait()
    start = time.perf_counter()
    try:
        yield
    finally:
        _wait()
        seconds = time.perf_counter() - start
        with _lock:
            for taken in _records:
                taken[name] = taken.get(name, 0.0) + seconds


def _wait() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
