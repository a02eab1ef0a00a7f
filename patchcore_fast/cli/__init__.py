"""The command line. Heavy imports wait until a command needs them: `--help` answers at once.

Exit codes: 0 done, 1 a bug or a broken machine (with a traceback), 2 something the user can mend (one line), 3 done,
but something was found or could not be used and is named, 130 Ctrl-C, 141 the reader of our output went away, 143
SIGTERM (129 SIGHUP).
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress

from patchcore_fast.cli.explain import explain
from patchcore_fast.cli.options import print_config
from patchcore_fast.cli.parser import build_parser
from patchcore_fast.cli.process import (
    PROGRAM,
    Terminated,
    flush,
    open_streams,
    say,
    signals,
    silence,
    start_logging,
    warned,
)

WHOLE = "files are written whole, none is half-written"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : arguments without the program's name; those of the process when left out.
    """
    open_streams()
    args = None
    try:
        with signals(), warnings.catch_warnings():
            warnings.showwarning = warned
            args = _arguments(argv)
            code = args if isinstance(args, int) else _run(args)
            flush()
            return code
    except Terminated as e:
        say(f"{PROGRAM}: ended by {e}; {WHOLE}{_again(args)}")
        return e.code
    except KeyboardInterrupt:
        say(f"\n{PROGRAM}: interrupted; {WHOLE}{_again(args)}")
        return 130
    except Exception as e:
        if isinstance(e, BrokenPipeError) and _was_stdout(e):
            silence(sys.stdout)
            return 141
        text = explain(e, _subject(args))
        if text is None or getattr(args, "verbose", False):
            say("".join(traceback.format_exception(e)).rstrip("\n"))
            return 1 if text is None else 2
        say(f"{PROGRAM}: error: {text}")
        with suppress(OSError):  # of a full disk, once more
            flush()
        return 2


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace | int:
    """Arguments of a command, or the exit code where argparse, or the help, has said all."""
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as e:
        return int(e.code or 0)
    if args.run is None:
        say(parser.format_help().rstrip("\n"))
        return 2
    return args


def _run(args: argparse.Namespace) -> int:
    start_logging(args.verbose)
    if getattr(args, "print_config", False):
        print_config(args)
        return 0
    module, function = args.run
    return int(getattr(importlib.import_module(f"patchcore_fast.cli.{module}"), function)(args) or 0)


def _again(args: argparse.Namespace | int | None) -> str:
    """What to do after an end from outside, where the command keeps what it has done."""
    kept = [getattr(args, name, None) for name in ("resumes", "store", "checkpoint")]
    return "; the same command goes on from what is done" if any(kept) else ""


def _was_stdout(error: BrokenPipeError) -> bool:
    """Nobody reads on where we print; otherwise it was the pipe that an output is."""
    from patchcore_fast.files import own_descriptor

    return error.filename in (None, "stdout") or own_descriptor(error.filename) is not None


def _subject(args: object) -> str | None:
    """What a command works on: the file or folder that it reads."""
    found = next((v for n in ("features", "folder", "images", "bank") if (v := getattr(args, n, None))), None)
    return " ".join(map(str, found)) if isinstance(found, list) else found
