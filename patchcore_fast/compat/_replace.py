"""Put our classes in the place of others' in modules that are imported already, and take them out again."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType, TracebackType
from typing import Any


class Replacement:
    """Attributes of modules replaced until `undo`; as a context manager, until the end of the block.

    What somebody else has put in place meanwhile is left alone by `undo`.
    """

    def __init__(self) -> None:
        self._saved: list[tuple[Any, str, Any, Any]] = []

    def set(self, module: Any, name: str, new: Any) -> None:
        """Replace module.name; nothing happens where `new` is there already."""
        old = getattr(module, name)
        if old is not new:
            self._saved.append((module, name, old, new))
            setattr(module, name, new)

    @property
    def places(self) -> list[str]:
        """Dotted names of what is replaced."""
        return [f"{module.__name__}.{name}" for module, name, _, _ in self._saved]

    def undo(self) -> None:
        """Put back what was there before; a second call does nothing."""
        while self._saved:
            module, name, old, new = self._saved.pop()
            if getattr(module, name, None) is new:
                setattr(module, name, old)

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def replace_all(modules: Iterable[ModuleType], new: dict[str, Any]) -> Replacement:
    """Replace attributes by name in every module, all or none.

    Raises
    ------
    AttributeError : a module lacks a name; nothing is changed.
    """
    modules = list(modules)
    for module in modules:
        if missing := [name for name in new if not hasattr(module, name)]:
            raise AttributeError(f"install: module {module.__name__} has no {', '.join(missing)}")
    replacement = Replacement()
    for module in modules:
        for name, value in new.items():
            replacement.set(module, name, value)
    return replacement
