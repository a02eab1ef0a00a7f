"""How long triton compiles, kernel by kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton.runtime.jit import JITFunction


@contextmanager
def compile_clock() -> Iterator[dict[str, float]]:
    """Inside the block, adds up the seconds that each kernel takes to compile or to load from triton's cache.

    Yields
    ------
    dict : "module.kernel" -> seconds. triton's hooks are put back afterwards; a hook set by others waits so long.
    """
    seconds: dict[str, float] = {}
    begun: dict[str, float] = {}

    def name(fn: Any) -> str:
        return f"{str(fn.module).rpartition('.')[2]}.{fn.name}"

    def before(*args: Any, fn: Any, **_: Any) -> None:
        begun[name(fn)] = time.perf_counter()

    def after(*args: Any, fn: Any, **_: Any) -> None:
        key = name(fn)
        seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - begun.pop(key, time.perf_counter())

    owner, first, last = _hooks()
    kept = getattr(owner, first), getattr(owner, last)
    setattr(owner, first, before)
    setattr(owner, last, after)
    try:
        yield seconds
    finally:
        setattr(owner, first, kept[0])
        setattr(owner, last, kept[1])


def _hooks() -> tuple[Any, str, str]:
    """Where this triton keeps the hooks that run before and after a compilation."""
    if hasattr(JITFunction, "compiled_hook"):  # before 3.4
        return JITFunction, "cache_hook", "compiled_hook"
    from triton import knobs

    return knobs.runtime, "jit_cache_hook", "jit_post_compile_hook"
