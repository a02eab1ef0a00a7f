"""The command line. Heavy imports wait until a command needs them: `--help` answers at once.

Exit codes: 0 done, 1 a bug or a broken machine (with a traceback), 2 something the user can mend (one line), 3 done,
but something was found or could not be used and is named, 130 Ctrl-C, 141 the reader of our output went away.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from patchcore_fast.cli.parser import build_parser
from patchcore_fast.names import shown

PROGRAM = "patchcore-fast"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : arguments without the program's name; those of the process when left out.
    """
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as e:  # argparse has said its line already
        return int(e.code or 0)
    if args.run is None:
        parser.print_help(sys.stderr)
        return 2
    _start_logging(args.verbose)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file may be called what no terminal can show
    module, function = args.run
    try:
        with warnings.catch_warnings(), _terminated_like_interrupted():
            warnings.showwarning = _warned
            code = getattr(importlib.import_module(f"patchcore_fast.cli.{module}"), function)(args)
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted; files are written whole, none is half-written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as e:
        if args.verbose or not _is_users(e):
            traceback.print_exc()
            return 2 if _is_users(e) else 1
        print(f"{PROGRAM}: error: {_one_line(e)}", file=sys.stderr)
        return 2


def _is_users(error: Exception) -> bool:
    """Whether the message was written for the user: by the file system, or by a check of this package."""
    from patchcore_fast.errors import PatchcoreFastError

    if isinstance(error, PatchcoreFastError | OSError):
        return True
    if isinstance(error, ImportError):
        return "pip install" in str(error)  # an extra that is missing; anything else is a broken installation
    if not isinstance(error, ValueError):
        return False
    # A ValueError out of torch or NumPy is a bug of ours, not an explanation.
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith("patchcore_fast")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = error.filename2 or error.filename
        return f"{shown(str(named))}: {error.strerror}" if named else error.strerror
    return shown(" ".join(str(error).split())) or type(error).__name__


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: temporary files go, scores stay."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread: whoever runs us there decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _warned(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning meant for the user as one line; of others (deprecations) the usual two."""
    if category is UserWarning:
        logging.getLogger("patchcore_fast").warning("%s", " ".join(str(message).split()))
    else:
        print(warnings.formatwarning(message, category, *where[:2]), end="", file=sys.stderr)


class _ToStderr(logging.Handler):
    """Writes to what stderr is now: main may be called more than once in a process."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _start_logging(verbose: bool) -> None:
    logger = logging.getLogger("patchcore_fast")
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    if not logger.handlers:
        handler = _ToStderr()
        handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(levelname)s: %(message)s"))
        logger.addHandler(handler)
