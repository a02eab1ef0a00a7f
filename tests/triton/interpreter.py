"""Triton's interpreter with less to look up: a third of a test's time was the search for names that never change.

Before each call of a kernel and of every function inside, the interpreter goes through all members of triton.language
for those that are built in, and puts its own in their place. Which they are is found once here.
"""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any


class Lookup:
    """The module `inspect` as the interpreter sees it: of members, those that it would replace."""

    def __init__(self, is_builtin: Any) -> None:
        self._is_builtin = is_builtin
        self._names: dict[int, list[str]] = {}  # of modules and classes that live as long as triton does

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    def getmembers(self, owner: Any) -> list[tuple[str, Any]]:
        if id(owner) not in self._names:  # before the first replacement of this owner's: all of them are found
            self._names[id(owner)] = [name for name, value in inspect.getmembers(owner) if self._is_builtin(value)]
        return [(name, getattr(owner, name)) for name in self._names[id(owner)]]


def quicken() -> None:
    """For this process; twice is once."""
    if importlib.util.find_spec("triton") is None:
        return
    from triton.language import core
    from triton.runtime import interpreter

    if interpreter.inspect is inspect:
        interpreter.inspect = Lookup(core.is_builtin)  # type: ignore[assignment]
