"""Processes that fork from one that has imported what programs and ranks import: seconds of CPU time each otherwise.

That one computes nothing, so it has no threads that a child would lack. A test of what happens before `main` (imports,
variables that torch reads when it is loaded), or of torch's threads, starts its process with `subprocess`.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch

HERE = Path(__file__).parent
CONTEXT = multiprocessing.get_context("forkserver")
# With the tests whose functions ranks run. What is there when `frozen` comes is no garbage for children to go through.
CONTEXT.set_forkserver_preload([
    "torch", "torch.distributed", "timm", "torchvision", "PIL.Image", "scipy.stats", "sklearn.metrics", "pytest",
    "hypothesis.strategies", "patchcore_fast.cli.select", "patchcore_fast.model", "patchcore_fast.doctor",
    *(f"tests.ranks.{path.stem}" for path in HERE.glob("ranks/test_*.py")), "tests.frozen",
])  # fmt: skip
MAIN = "import sys; from patchcore_fast.cli import main; sys.exit(main())"


class Program:
    """What `python -c code arguments` does.

    out, err : see `stream`. Without them `ended` has what was written.
    ignored : a signal that is ignored from the start, as nohup hands it down.
    """

    def __init__(
        self, code: str, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None,
        out: str = "", err: str = "", ignored: int | None = None,
    ) -> None:  # fmt: skip
        self._folder = tempfile.TemporaryDirectory()
        self.out, self.err = (Path(self._folder.name, name) for name in ("out", "err"))
        streams = [out or str(self.out), err or str(self.err)]
        given = (code, [*map(os.fspath, arguments)], str(cwd or Path.cwd()), dict(env or os.environ), streams, ignored)
        self._process = CONTEXT.Process(target=_run, args=given, daemon=True)
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]

    def running(self) -> bool:
        return self._process.exitcode is None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, path: Path, text: str = "", seconds: float = 100) -> None:
        """Until a file is there, and has that text in it."""
        end = time.monotonic() + seconds
        while not (path.exists() and text in path.read_text(errors="replace")):
            assert self.running() and time.monotonic() < end, self.ended(0)
            time.sleep(0.01)

    def ended(self, seconds: float = 120) -> CompletedProcess[str]:
        """Wait for the end; killed where it does not come. Text as a terminal gets it, bytes that are none escaped."""
        self._process.join(seconds)
        if hangs := self.running():
            self._process.kill()
            self._process.join()
        said = [path.read_text("utf-8", "surrogateescape") if path.exists() else "" for path in (self.out, self.err)]
        self._folder.cleanup()
        done = CompletedProcess(self._process.name, self._process.exitcode, *said)
        if hangs:
            raise TimeoutError(f"no end in {seconds} s: {done}")
        return done


def run(code: str, *arguments: object, **more: Any) -> CompletedProcess[str]:
    """As subprocess.run."""
    return Program(code, *arguments, **more).ended()


def _run(
    code: str, arguments: list[str], cwd: str, env: dict[str, str], streams: list[str], ignored: int | None
) -> None:
    """In the child."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if ignored is not None:
        signal.signal(ignored, signal.SIG_IGN)
    torch.set_num_threads(1)  # the package would ask for it, and say so: it knows a child of a fork
    sys.argv = ["-c", *arguments]
    encoding, _, errors = env.get("PYTHONIOENCODING", "utf-8:strict").partition(":")
    sys.stdout = stream(1, streams[0], encoding, errors)
    sys.stderr = stream(2, streams[1], encoding, "backslashreplace")
    status = 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)


def stream(number: int, to: str, encoding: str, errors: str) -> io.TextIOWrapper | None:
    """What Python makes of a standard stream.

    to : a file to write, or "closed", "gone" (a pipe without a reader), "full" (a device).
    """
    if to == "closed":
        os.close(number)
        return None
    if to == "gone":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full" if to == "full" else to, os.O_WRONLY | os.O_CREAT)
    os.dup2(writer, number)
    os.close(writer)
    return io.TextIOWrapper(os.fdopen(number, "wb", closefd=False), encoding, errors, line_buffering=number == 2)


def leave(code: int) -> None:
    """As Python ends: exit functions, the last flush, 120 where that fails. Taking all modules apart would be slow."""
    atexit._run_exitfuncs()
    for each in (sys.stdout, sys.stderr):
        try:
            if each is not None:
                each.flush()
        except (OSError, ValueError) as error:
            with suppress(OSError):
                os.write(2, f"Exception ignored in: {each}\n{error!r}\n".encode())
            code = 120
    os._exit(code)
