"""Processes of their own for faults that this one would not survive, without an import of torch for each.

A server imports the program once, and forks for each request; before the first one for a command it runs that to warm
it. It has a single thread, so a child is as good as a process that was started anew.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..programs import leave, stream
from .run import LIMIT, Result


def serve(template: str) -> None:
    """The server: a JSON object a line on stdin; answers the child's process number, then its wait status."""
    answer = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.chdir(template)
    from tqdm import tqdm

    from ..compared import cells_here

    cells_here(setattr)
    tqdm.monitor_interval = 0  # no thread for bars that nobody sees
    print("ready", file=answer, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        _warm(request["argv"][0])
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            answer.close()
            os.dup2(null, 0)
            child(**request)
        print(pid, file=answer, flush=True)
        print(os.waitpid(pid, 0)[1], file=answer, flush=True)


@cache
def _warm(word: str) -> None:
    """By all of the commands that begin so."""
    from patchcore_fast.cli import main

    from .commands import COMMANDS

    scratch = tempfile.mkdtemp()
    for command in (command for command in COMMANDS if command.argv[0] == word):
        argv = [part if part not in command.outputs else os.path.join(scratch, part) for part in command.argv]
        with open(os.devnull, "w") as null:
            sys.stdout = sys.stderr = null
            with suppress(Exception):
                main(argv)
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    shutil.rmtree(scratch)
    assert len(os.listdir("/proc/self/task")) == 1, "the server has threads: children of a fork would lack them"
    gc.collect()
    gc.freeze()  # children would copy every page that the collector writes to


def child(
    root: str, argv: list[str], out: str, err: str, limits: dict[str, int], strike: dict[str, Any] | None,
    encoding: str = "utf-8", errors: str = "strict",
) -> None:  # fmt: skip
    """Never returns: leaves as the console script does.

    out, err : see `stream`.
    limits : name of a resource -> bytes; of the address space, beyond what is in use.
    strike : moment, number and the signal that this process sends to itself there.
    """
    os.chdir(root)
    os.environ["TMPDIR"] = tempfile.tempdir = os.path.join(root, "tmp")
    sys.stdout, sys.stderr = stream(1, out, encoding, errors), stream(2, err, encoding, "backslashreplace")
    for name, size in limits.items():
        which = getattr(resource, name)
        if name == "RLIMIT_AS":
            size += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(which, (size, resource.getrlimit(which)[1]))
    from tqdm import tqdm

    from patchcore_fast.cli import main

    tqdm.set_lock(threading.RLock())  # its own is shared with later children: one that dies would lock it for good
    if strike is None:
        leave(main(argv))
    from .moments import Strike

    number = strike["signal"]
    with Strike(strike["moment"], strike["number"], lambda _: os.kill(os.getpid(), number)).active():
        leave(main(argv))


class Zygote:
    """The client. The server starts at once and is ready when the first request needs it."""

    def __init__(self, template: Path, checkout: Path) -> None:
        import patchcore_fast

        path = os.pathsep.join([str(checkout), str(Path(patchcore_fast.__file__).parents[1])])
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        code = f"from tests.faults.zygote import serve; serve({str(template)!r})"
        self._server = subprocess.Popen([sys.executable, "-c", code], env=os.environ | threads | {"PYTHONPATH": path},
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        self._ready = False
        self._pending = b""

    def _line(self, seconds: float) -> str | None:
        """The server's next line, None when there is none in time."""
        assert self._server.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            if not select.select([self._server.stdout], [], [], max(end - time.monotonic(), 0))[0]:
                return None
            more = os.read(self._server.stdout.fileno(), 4096)
            assert more, "the server of forked runs has ended"
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def run(
        self, root: Path, argv: Sequence[str], *, out: str = "", err: str = "", limits: dict[str, int] | None = None,
        strike: dict[str, Any] | None = None, kill: tuple[float, int] | None = None, **streams: str,
    ) -> Result:  # fmt: skip
        """Run in a child, see `child`; kill : seconds after the start and the signal that is sent then."""
        if not self._ready:
            assert self._line(120) == "ready"
            self._ready = True
        with tempfile.TemporaryDirectory() as said:
            paths = [os.path.join(said, name) for name in ("out", "err")]
            for path in paths:
                Path(path).touch()
            request = {"root": str(root), "argv": [*argv], "out": out or paths[0], "err": err or paths[1],
                       "limits": limits or {}, "strike": strike, **streams}  # fmt: skip
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()
            pid = int(self._line(4 * LIMIT) or 0)  # it may have to warm the command
            assert pid > 1, "the server of forked runs does not answer"
            if kill is not None:
                time.sleep(kill[0])
                with suppress(ProcessLookupError):  # it was faster
                    os.kill(pid, kill[1])
            status = self._line(LIMIT)
            hung = status is None
            left = _group(pid)
            if hung or left:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            status = status or self._line(LIMIT) or "0"
            texts = [Path(path).read_bytes().decode(errors="surrogateescape") for path in paths]
        return Result(os.waitstatus_to_exitcode(int(status)), *texts, hung, [] if hung else left)

    def stop(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.kill()
        self._server.wait()


def _group(group: int) -> list[str]:
    """Processes of a process group that live."""
    import psutil

    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(repr(process))
    return found
