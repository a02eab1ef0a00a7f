"""A thread makes the next items while one is used, and never outlives the loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from patchcore_fast.ahead import Ahead


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("patchcore_fast")]


@pytest.mark.parametrize("depth", [1, 3])
def test_items_are_made_ahead_in_their_order(depth: int) -> None:
    made: list[int] = []
    enough = threading.Event()

    def source() -> Iterator[int]:
        for i in range(8):
            made.append(i)
            if len(made) == depth + 1:
                enough.set()
            yield i

    items = iter(Ahead(source(), depth))
    assert next(items) == 0
    assert enough.wait(60)  # without another one being taken
    assert made == list(range(depth + 1))
    assert list(items) == list(range(1, 8))
    assert list(Ahead([], depth)) == [] and not threads()


def test_errors_come_where_their_item_would_have() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    items = iter(Ahead(source()))
    assert next(items) == 1
    with pytest.raises(OSError, match="no more"):
        next(items)
    assert not threads()


def test_a_loop_that_ends_early_ends_the_thread() -> None:
    closed: list[bool] = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    for _ in Ahead(source(), 4):
        break
    assert closed == [True] and not threads()
