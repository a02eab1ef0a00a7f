"""One provider in a process of its own, and the parent's side of the talk: time, peak memory, limits, deaths.

Requests and answers are one line of JSON each; arrays travel as .npy files. Run as a script it is the child.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.harness import memory

_POLL = 0.01  # seconds between looks at the child's resident memory: at 4 GB/s, 40 MB of new pages
_WARM_ROWS, _WARM_K = 5000, 50  # picks: which kernels run does not hang on them
_AWAKE_S = 0.02


class WorkerError(Exception):
    """A provider that gave no answer. kind: "memory", "time", "died" or "error"; peak: bytes resident, if known."""

    def __init__(self, kind: str, message: str, peak: int = 0) -> None:
        super().__init__(message)
        self.kind, self.peak = kind, peak


class Worker:
    """The parent's end.

    Parameters
    ----------
    task, provider : a name in `providers(task, plugin)`.
    limit : bytes the process may have resident (CPU), or allocate on the device (CUDA).
    given : the number of GiB that the user asked for, or None where `limit` only protects the machine.
    """

    def __init__(self, task: str, provider: str, device: str, limit: int, given: float | None = None,
                 plugin: str | None = None) -> None:  # fmt: skip
        self.name, self.limit, self.given, self.device = provider, limit, given, device
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (closed in close)
        own = str(Path(plugin).resolve()) if plugin else ""
        command = [sys.executable, "-m", "benchmarks.harness.worker", task, provider, device, str(limit), own]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(command, cwd=ROOT, **pipes)
        self.buffer = b""

    def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises
        ------
        WorkerError : the provider failed, died, took more than `timeout` seconds or more memory than it may.
        """
        out, pid = self.process.stdout, self.process.pid
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        end = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            if select.select([out], [], [], _POLL)[0]:
                part = os.read(out.fileno(), 1 << 16)
                if not part:
                    raise WorkerError("died", self._last_words())
                self.buffer += part
            elif self.device == "cpu" and memory.resident(pid) > self.limit:
                peak = memory.peak(pid)
                self.close()
                raise WorkerError("memory", self._too_much(peak), peak)
            elif time.monotonic() > end:
                self.close()
                raise WorkerError("time", f"no answer within {timeout:.0f} s")
        line, _, self.buffer = self.buffer.partition(b"\n")
        answer = json.loads(line)
        if "failed" in answer:
            self.close()
            kind, peak = answer["failed"], answer.get("peak", 0)
            raise WorkerError(kind, self._too_much(peak) if kind == "memory" else answer["message"], peak)
        if self.device == "cpu" and answer.get("peak", 0) > self.limit:  # it came and went between two looks
            self.close()
            raise WorkerError("memory", self._too_much(answer["peak"]), answer["peak"])
        return answer

    def _too_much(self, peak: int) -> str:
        what = "device memory" if self.device != "cpu" else "resident memory"
        limit = f"{self.given:g} GB" if self.given else f"the {self.limit / memory.GIB:.0f} GB that are free here"
        had = f" ({peak / memory.GIB:.1f} GB when it was ended)" if peak else ""
        return f"needs more than {limit} of {what}{had}"

    def _last_words(self) -> str:
        code = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"{how}{': ' + lines[-1][:200] if lines else ''}"

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            with suppress(OSError):
                stream.close()


class _Child:
    def __init__(self, task: str, provider: str, device: str, limit: int, plugin: str) -> None:
        import torch

        from benchmarks.harness.providers import providers

        self.torch, self.device, self.task = torch, device, task
        self.provider = providers(task, plugin or None)[provider]
        if device != "cpu":
            share = limit / torch.cuda.get_device_properties(device).total_memory
            index = torch.device(device).index  # "cuda" alone is refused here
            torch.cuda.set_per_process_memory_fraction(min(1.0, share), 0 if index is None else index)

    def load(self, files: dict[str, str], seed: int, counts: list[int]) -> dict[str, Any]:
        """Read arrays, pay what only the first call costs (and say how long it took), open the provider on them.

        counts : what will be asked for. Searches have kernels by the number of neighbours: each is warmed up.
        """
        import numpy as np

        self.opened = None
        arrays = {name: np.load(path) for name, path in files.items()}
        small = {name: array[:_WARM_ROWS].copy() for name, array in arrays.items()}
        opened = self.provider.open(small, self.device, seed)
        self._wait()
        begin = time.perf_counter()
        most = min(len(a) for a in small.values())
        for k in sorted({min(k, _WARM_K if self.task == "kcenter" else k, most) for k in counts}):
            opened.answer(k)
        self._wait()
        first = time.perf_counter() - begin
        del small, opened
        memory.forget_peak()
        # Beyond the features: on the CPU they are here already, on a device they come with open().
        on_device = sum(array.nbytes for array in arrays.values())
        self.before = self._allocated() + on_device if self.device != "cpu" else memory.resident()
        self.opened = self.provider.open(arrays, self.device, seed)
        self._wait()
        return {"first_call_s": first}

    def run(self, k: int, out: str) -> dict[str, Any]:
        """One timed answer; its arrays go to the file `out`."""
        import numpy as np

        memory.forget_peak()
        if self.device != "cpu":
            self._awake()
            self.torch.cuda.reset_peak_memory_stats(self.device)
        begin = time.perf_counter()
        answer = self.opened.answer(k)
        self._wait()
        seconds = time.perf_counter() - begin
        peak = self.peak()
        if hasattr(self.opened, "shown"):  # outside the time: an answer that is too large to hand over whole
            answer = self.opened.shown(answer)
        np.savez(out, **{name: _host(array) for name, array in answer.items()})
        facts = getattr(self.opened, "facts", dict)()
        return {"seconds": seconds, "peak": peak, "extra": max(0, peak - self.before), "facts": facts}

    def space(self, out: str) -> dict[str, Any]:
        """What the provider's picks must be judged by, where it is not plain distance between the given rows."""
        import numpy as np

        arrays = self.opened.space() if hasattr(self.opened, "space") else None
        if arrays:
            np.savez(out, **arrays)
        return {"own": bool(arrays)}

    def peak(self) -> int:
        """Bytes: resident, or allocated on the device, at most since the run began."""
        return memory.peak() if self.device == "cpu" else int(self.torch.cuda.max_memory_allocated(self.device))

    def _awake(self) -> None:
        """Bring the clock of an idle device up, as runs of a few milliseconds find it in a program; then wait."""
        x = self.torch.ones(1 << 20, device=self.device)  # no matrix products: their workspace would count as memory
        end = time.perf_counter() + _AWAKE_S
        while time.perf_counter() < end:
            for _ in range(50):
                x.mul_(x)
            self._wait()
        del x

    def _allocated(self) -> int:
        return int(self.torch.cuda.memory_allocated(self.device))

    def _wait(self) -> None:
        if self.device != "cpu":
            self.torch.cuda.synchronize(self.device)


def _host(array: Any) -> Any:
    """As NumPy, also from a device: the copy is no part of the time."""
    import numpy as np

    return array.cpu().numpy() if hasattr(array, "cpu") else np.asarray(array)


def _serve() -> None:
    memory.die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a provider prints is no answer
    try:
        task, provider, device, limit, plugin = sys.argv[1:]
        child = _Child(task, provider, device, int(limit), plugin)
    except Exception as error:
        sys.stdin.readline()
        answers.write(json.dumps({"failed": "error", "message": f"{type(error).__name__}: {error}"}) + "\n")
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(child, request.pop("do"))(**request)
        except Exception as error:
            memory_ran_out = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
            memory_ran_out |= "can't allocate memory" in str(error)
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            answer = {"failed": "memory" if memory_ran_out else "error", "message": message, "peak": child.peak()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
