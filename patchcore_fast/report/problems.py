"""Pictures that could not be drawn: a run goes on without them, for its scores are worth more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from patchcore_fast.names import printable

_log = logging.getLogger(__name__)


class Problems:
    """Names and reasons of what failed; `failed` is in the order of failure."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Whatever goes wrong inside is written down (a full disk, too little memory, a bug) and ends there.

        Ctrl-C goes through. The traceback is in the log.
        """
        try:
            yield
        except Exception as error:
            self.failed.append((printable(name), reason(error)))
            _log.debug("%s could not be written", printable(name), exc_info=True)


def reason(error: Exception) -> str:
    """Why, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "out of memory"
    text = printable(" ".join(str(error).split()))
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
