"""Settings of torch for a `with` block: tests put back what they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def set_to(setter: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    """`setter(value)` for the block, `setter(before)` after it."""
    setter(value)
    try:
        yield
    finally:
        setter(before)
