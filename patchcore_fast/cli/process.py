"""What surrounds a command: its standard streams, signals, warnings, log. The library itself touches none of them."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

PROGRAM = "patchcore-fast"


class Terminated(KeyboardInterrupt):
    """The process was asked to end; whatever cleans up after Ctrl-C cleans up after this."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def open_streams() -> None:
    """Closed standard streams become the null device, and the open ones take any file name.

    Otherwise the next file that is opened gets the number of the closed one, and what any library prints goes there.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, os.O_RDWR)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence(stream: Any) -> None:
    """Python flushes its streams once more at exit, and what could not be written still waits there: drop it."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


def flush() -> None:
    """What was printed goes out now, where an error can still be told: one of stdout has its name."""
    try:
        sys.stdout.flush()
    except OSError as e:
        silence(sys.stdout)
        raise OSError(e.errno, e.strerror, "stdout") from e


def say(text: str) -> None:
    """A line on stderr, if anybody can get it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a full disk, a reader that is gone, a closed stream
        silence(sys.stderr)


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` inside the block, once; further ones do not disturb the clean-up.

    What is ignored stays so (nohup). In another thread than the main one the caller decides.
    """
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker, which has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Terminated(number)

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            found = signal.getsignal(number)
            if found is not signal.SIG_IGN and found is not None:
                signal.signal(number, end)
                before[number] = found
    except ValueError:  # not in the main thread
        pass
    try:
        yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


@contextmanager
def postponed() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and SIGHUP wait for the end of the block: gives what says whether one came, and raises it there.

    For a command that finishes what it has in hand. A second one is raised at once. What is ignored stays so.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise _ending(came[0])

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            found = signal.getsignal(number)
            if found is not signal.SIG_IGN and found is not None:
                signal.signal(number, note)
                before[number] = found
    except ValueError:  # not in the main thread
        pass
    try:
        yield lambda: bool(came)
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
    if came:
        raise _ending(came[0])


def _ending(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def warned(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning meant for the user as one line; of others (deprecations) the usual two."""
    if category is UserWarning:
        logging.getLogger("patchcore_fast").warning("%s", " ".join(str(message).split()))
    else:
        say(warnings.formatwarning(message, category, *where[:2]).rstrip("\n"))


class _ToStderr(logging.Handler):
    """Writes to what stderr is now: main may be called more than once in a process.

    Which kernels run is told once a command and not at each of hundreds of calls.
    """

    told: set[str]

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno == logging.DEBUG and record.name == "patchcore_fast.kernels":
            if text in self.told:
                return
            self.told.add(text)
        say(text)


def start_logging(verbose: bool) -> None:
    """The package's log on stderr: warnings, with `verbose` all."""
    logger = logging.getLogger("patchcore_fast")
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    if not logger.handlers:
        handler: logging.Handler = _ToStderr()
        handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(levelname)s: %(message)s"))
        logger.addHandler(handler)
    for handler in logger.handlers:
        if isinstance(handler, _ToStderr):
            handler.told = set()
