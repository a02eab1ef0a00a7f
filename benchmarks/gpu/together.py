"""Run several commands at the same time, for what is compiled or watched rather than timed: parts of run.py.

    python -m benchmarks.gpu.together +++ PROGRAM ARGUMENT ... +++ PROGRAM ...

What each one printed comes in one piece when it ends, with its status and seconds; the last lines say which failed, and
the status is 1 then. Ended before, it ends them and says which were still running.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import IO

_BYTES = 64 << 10  # of what each one printed, its end
_MARK = "+++"


def commands(words: list[str]) -> list[list[str]]:
    """What stands behind each +++. SystemExit where there is nothing."""
    found: list[list[str]] = []
    for word in words:
        if word == _MARK:
            found.append([])
        elif found:
            found[-1].append(word)
        else:
            raise SystemExit(f"{_MARK} is wanted before the first command, got {word!r}")
    if not found or not all(found):
        raise SystemExit(f"a command is wanted behind each {_MARK}, got {words}")
    return found


def _say(name: str, status: str, seconds: float, said: IO[bytes]) -> None:
    size = said.seek(0, 2)
    said.seek(max(0, size - _BYTES))
    print(f"---- {name}\n{said.read().decode(errors='replace').rstrip()}\n---- {status}, {seconds:.0f} s", flush=True)


def run(asked: list[list[str]]) -> int:
    """How many failed."""
    begin = time.monotonic()
    outputs = [tempfile.TemporaryFile() for _ in asked]  # noqa: SIM115  (closed below)
    running, failed = {}, []
    try:
        for i, (command, out) in enumerate(zip(asked, outputs, strict=True)):
            try:
                running[i] = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
            except OSError as error:
                failed.append(i)
                print(f"---- {' '.join(command)}\ncannot be started: {error}", flush=True)
        while running:
            for i in [i for i, process in running.items() if process.poll() is not None]:
                code = running.pop(i).returncode
                failed += [i] if code else []
                _say(" ".join(asked[i]), f"status {code}", time.monotonic() - begin, outputs[i])
            time.sleep(0.02)
    finally:
        for i, process in running.items():
            process.kill()
            process.wait()
            _say(" ".join(asked[i]), "still running", time.monotonic() - begin, outputs[i])
        for out in outputs:
            out.close()
    for i in sorted(failed):
        print(f"FAILED: {' '.join(asked[i])}")
    return len(failed)


def main(argv: list[str] | None = None) -> None:
    """See above."""
    words = sys.argv[1:] if argv is None else argv
    if words in (["-h"], ["--help"]):
        print(__doc__)
        return
    with suppress(ValueError):  # in a thread, as tests may run it, no signal comes
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = commands(words)
    failed = run(asked)
    print(f"{len(asked) - failed} of {len(asked)} well")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
