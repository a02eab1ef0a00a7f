"""Run a command in this process as the shell would, as far as the command can tell."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

LIMIT = 30  # seconds until a run counts as hanging; the longest takes about 2


@dataclass(frozen=True)
class Result:
    """How a run ended; code is negative for the signal that killed it."""

    code: int
    out: str
    err: str
    hung: bool = False
    children: list[str] = field(default_factory=list)


class Hang(BaseException):
    """Raised by the alarm; no Exception, so that no handler of the program's takes it for its own."""


def stream(encoding: str = "utf-8", errors: str = "strict") -> io.TextIOWrapper:
    """What sys.stdout is when it is a pipe."""
    return io.TextIOWrapper(io.BytesIO(), encoding, errors, newline="\n", write_through=False)


def text_of(pipe: io.TextIOWrapper | None) -> str:
    """What was written, flushed or not."""
    if pipe is None:
        return ""
    pipe.flush()
    return pipe.buffer.getvalue().decode(pipe.encoding, "surrogateescape")  # type: ignore[attr-defined]


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Warnings go to stderr as in a program of its own; pytest would collect them."""

    def show(message: Any, category: type[Warning], *_: object) -> None:
        print(f"{category.__name__}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", quiet)
        warnings.showwarning = show
        yield


def here(
    root: Path,
    argv: Sequence[str],
    main: Callable[[list[str]], int] | None = None,
    out: io.TextIOWrapper | str | None = "pipe",
    err: io.TextIOWrapper | str | None = "pipe",
) -> Result:
    """Run in `root`.

    main : what to run, the command line's `main` when None.
    out, err : other streams for stdout and stderr; None as in a process whose descriptor is closed.
    """
    if main is None:
        from patchcore_fast.cli import main
    out = stream() if isinstance(out, str) else out
    err = stream(errors="backslashreplace") if isinstance(err, str) else err
    back = os.getcwd()
    kept = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)]
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    logging.getLogger("patchcore_fast").handlers.clear()  # one of them may hold the stderr of an earlier run
    hung, code = False, 0
    os.chdir(root)
    try:
        with (
            patch.object(sys, "stdout", out),
            patch.object(sys, "stderr", err),
            patch.object(tempfile, "tempdir", str(root / "tmp")),
            shown_warnings(),
            _alarm(),
        ):
            code = main([*argv])
    except Hang:
        hung = True
    finally:
        os.chdir(back)
    now = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE)]
    assert now == kept, "the command left its own signal handlers in place"
    left = [repr(c) for c in psutil.Process().children(recursive=True) if c.pid not in children]
    return Result(code, text_of(out), text_of(err), hung, left)
