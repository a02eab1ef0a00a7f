"""Runs parts one after the other, each a process with a time, and keeps what they have written, whatever becomes of
them: parts that crash, hang, are killed while they write, or write nonsense are told of and passed over.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.gpu import summary
from benchmarks.gpu.parts import Part, sanitizer
from benchmarks.harness import records

GRACE_S = 8.0  # of a part's time, between asking it to end and ending it
_POLL_S, _LEAST_S = 0.2, 8.0
_LINES = 3  # of a part's output that the summary may quote
# What comes back must stay below 16 MiB: twelve parts' output, an earlier run's, six result files.
LOG_BYTES, OLD_LOG_BYTES, RESULT_BYTES = 512 << 10, 2 << 20, 1 << 20


class Run:
    """One run of parts into a folder.

    out : the folder.  device : "cuda" or "cpu".  total_s : seconds for all parts.  dry : the tiny commands.
    name : of the summary and the log.
    """

    def __init__(self, out: Path, device: str, total_s: float, dry: bool, name: str = "gpu") -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.device, self.dry, self.name = out, device, dry, name
        self.begin, self.total_s = time.monotonic(), total_s
        self.due = 0.0  # seconds after which the parts so far should have ended
        self.work = Path(tempfile.mkdtemp(prefix="patchcore_fast_gpu_"))
        self.scratch = Path(tempfile.mkdtemp(prefix="patchcore_fast_gpu_", dir=_roomy()))
        self.log = out / f"{name}.log"
        if self.log.exists():
            self.log.write_bytes(_end_of(self.log, OLD_LOG_BYTES))
        self.results: summary.Results = {}
        self.whole: dict[str, Any] = {"benchmark": "gpu", "environment": {}, "parts": [], "targets": []}
        self.whole["options"] = {"total_s": total_s, "dry_run": dry, "device": device, "memory_gb": None}
        self.environment = self._environment()
        emulated = bool(os.environ.get("PATCHCORE_FAST_CUDA_EMULATED"))
        self.names = {
            "{python}": sys.executable, "{device}": device, "{sanitizer}": sanitizer(),
            "{cuda}": "cuda" if emulated else "torch",
            "{triton}": "triton" if importlib.util.find_spec("triton") else "torch",
        }  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """Of the parts. Compiled kernels stay in build/ from call to call; a dry run interprets them."""
        here = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        cache = ROOT / "build" / "triton"
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError:  # a tree that cannot be written to
            cache = self.work / "triton"
        # This tree before what the caller brings along: it is the one whose commit is recorded.
        path = os.pathsep.join([str(ROOT), *filter(None, [here.get("PYTHONPATH")])])
        return {
            "TRITON_CACHE_DIR": str(cache),
            **here,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "PATCHCORE_FAST_SCRATCH": str(self.scratch),
            **({"TRITON_INTERPRET": "1"} if self.dry else {}),
        }

    def left(self) -> float:
        """Seconds that the parts still have."""
        return self.total_s - (time.monotonic() - self.begin)

    def part(self, part: Part) -> dict[str, Any]:
        """Run one part; what became of it."""
        spare = max(0.0, self.due - (time.monotonic() - self.begin))
        self.due += part.most
        command = list(part.small() if self.dry else part.command)
        try:
            reason = part.skip() if not self.dry else None if command else part.absent
        except Exception as error:
            reason = f"cannot be looked at: {type(error).__name__}: {error}"
        if reason:
            return self._note(_told(part, "not run", 0.0, reason))
        if self.left() < _LEAST_S:
            return self._note(_told(part, "not run", 0.0, "no time was left"))
        most = min(part.most + min(spare, part.most), self.left())
        file = self.work / f"part-{len(self.whole['parts'])}.json"
        writes = part.into and not (self.dry and part.instead)
        command += ["--json", str(file)] if writes else []
        return self._process(part, command, most, file if writes else None)

    def _process(self, part: Part, command: Sequence[str], most: float, file: Path | None) -> dict[str, Any]:
        filled = [self.names.get(word, word) for word in command]
        print(f"== {part.name} (at most {most:.0f} s)", flush=True)
        begin, said = time.monotonic(), self.work / "said"
        with open(self.log, "ab") as log, open(said, "wb") as out:
            log.write(f"\n==== {part.name}: {' '.join(filled)}\n".encode())
            try:
                process = subprocess.Popen(
                    filled, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
                    env={**self.environment, **part.environment},
                )  # fmt: skip
            except OSError as error:
                return self._note(_told(part, "failed", 0.0, f"cannot be started: {error}"))
            status = "cut"  # unless it is waited for to the end
            try:
                status = self._wait(process, begin, most, part, file)
            finally:
                _end(process)
                log.write(_end_of(said, LOG_BYTES))
                log.flush()
                text = _end_of(said, LOG_BYTES).decode(errors="replace")
                told = self._verdict(part, status, process.returncode, text, time.monotonic() - begin)
                if (wrong := self._collect(part, file)) and told["status"] != "cut":
                    told |= {
                        "status": "failed",
                        "message": f"{wrong} ({told['message']})" if told["message"] else wrong,
                    }
                self._note(told)
        return told

    def _verdict(self, part: Part, status: str, code: int, text: str, seconds: float) -> dict[str, Any]:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        quoted = " / ".join(line[:120] for line in lines[-_LINES:]) if not part.into else ""
        if status == "ok" and part.describes:
            try:
                self.whole["environment"] = dict(json.loads(lines[-1]))
                quoted = ""
            except (ValueError, TypeError, IndexError):
                status, quoted = "failed", f"no description of the device: {quoted or 'nothing was said'}"
        elif status == "ok" and code:
            status, quoted = "failed", f"status {code}: {' / '.join(line[:160] for line in lines[-1:])}"
        elif status == "ended":
            quoted = f"took longer than it may; {quoted or 'what it had written is kept'}"
        elif status == "cut":
            quoted = "the whole run was ended; what it had written is kept"
        return _told(part, status, seconds, quoted, code)

    def _wait(self, process: subprocess.Popen[bytes], begin: float, most: float, part: Part, file: Path | None) -> str:
        """ "ok": it ended by itself; "ended". Results are taken over as it writes them."""
        seen, until = 0, begin + max(most - GRACE_S, most / 2)
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
                return "ok"
            if time.monotonic() > until:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT)  # pytest then says what it knows, a benchmark ends its workers
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, begin + most - time.monotonic()))
                return "ended"
            if file and file.exists() and (now := file.stat().st_mtime_ns) != seen:
                seen = now
                self._collect(part, file)

    def _collect(self, part: Part, file: Path | None) -> str:
        """Put what a part has written in place of what it wrote before, beside what others wrote to the same file.

        In words what is wrong with it; empty where nothing is. What cannot be read leaves what was read before.
        """
        if file is None or not file.exists():
            return ""
        if (size := file.stat().st_size) > RESULT_BYTES:
            return f"its result has {size:,} bytes, {RESULT_BYTES:,} are allowed"
        try:
            found = records.read(file)
            summary.check(found)
        except (SystemExit, Exception) as error:
            return f"its result cannot be read: {type(error).__name__}: {str(error)[:200]}"
        for problem in found["problems"]:
            problem |= {"part": part.name, "options": found["options"]}
        known = self.results.get(part.into) or self._earlier(part.into, found) or {**found, "problems": []}
        self.results[part.into] = known
        known["problems"] = [p for p in known["problems"] if p.get("part") != part.name] + found["problems"]
        records.write(self.out / f"{part.into}.json", known)
        self.whole["environment"] = self.whole["environment"] or found["environment"]
        return ""

    def _earlier(self, name: str, found: dict[str, Any]) -> dict[str, Any] | None:
        """What an earlier run of the same sources on the same device left in the folder."""
        try:
            known = records.read(self.out / f"{name}.json")
            summary.check(known)
        except (SystemExit, Exception):
            return None
        same = all(known["environment"].get(k) == found["environment"].get(k) for k in ("device", "commit"))
        return known if same and known["benchmark"] == found["benchmark"] else None

    def _note(self, told: dict[str, Any]) -> dict[str, Any]:
        self.whole["parts"].append(told)
        said = told["message"] and f": {told['message']}"
        print(f"== {told['name']}: {told['status']}, {told['seconds']:.0f} s{said}", flush=True)
        self.write()
        return told

    def write(self) -> None:
        """The summary, as far as it is."""
        self.whole["targets"] = summary.targets(self.results)
        records.write(self.out / f"{self.name}.json", self.whole)

    def close(self) -> None:
        """Temporary files go; the summary is the last thing printed."""
        self.write()
        for folder in (self.work, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
        print(summary.as_text(self.whole, self.results), flush=True)


def _told(part: Part, status: str, seconds: float, message: str, code: int | None = None) -> dict[str, Any]:
    return {"name": part.name, "status": status, "seconds": round(seconds, 1), "most": part.most, "message": message,
            "code": code, "into": part.into}  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and whatever it started; the group is its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_of(file: Path, most: int) -> bytes:
    with open(file, "rb") as f:
        f.seek(max(0, f.seek(0, 2) - most))
        return f.read()


def _roomy() -> str | None:
    """Memory for the features of large cases, where there is enough; else the usual place. Nothing may be run there."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 32 << 30
    return str(shared) if roomy else None


def run(parts: Sequence[Part], out: Path, device: str, total_s: float, dry: bool = False, name: str = "gpu") -> bool:
    """All parts; whether each one that ran was right and in time."""
    going = Run(out, device, total_s, dry, name)
    try:
        for part in parts:
            going.part(part)
    finally:
        going.close()
    return all(told["status"] in ("ok", "not run") for told in going.whole["parts"]) and _all_right(going.results)


def _all_right(results: summary.Results) -> bool:
    """No row of our own was wrong; what others get wrong is theirs."""
    rows = [r for result in results.values() for problem in result["problems"] for r in problem["rows"]]
    return not any(r["status"] == "wrong" and r["provider"].startswith("patchcore_fast") for r in rows)
