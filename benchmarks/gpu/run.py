"""Everything that wants a CUDA device, in under nine minutes: tests, sanitizers, benchmarks; one folder of results.

    bash benchmarks/gpu.sh FOLDER                # what is in parts.py, most important first
    bash benchmarks/gpu.sh FOLDER --only kcenter knn
    bash benchmarks/gpu.sh FOLDER --dry-run      # on the CPU, tiny sizes, torch leaves: does all of it start and end?

Each part is a process with a time after which it is ended; one that fails or hangs does not stop the others. Results
are written as they come, so that what is there when all of it is cut off is good: FOLDER/gpu.json (parts, targets,
device), gpu.log (all output), and at most six result files as harness/records.py has them. Nothing needs a network.
"""

from __future__ import annotations

import argparse
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
from benchmarks.gpu.parts import PARTS, Part, sanitizer
from benchmarks.harness import records

TOTAL_S = 510.0  # for all parts; nine minutes less the time to end one and to write
GRACE_S = 8.0  # between asking a part to end and ending it
_DEVICE_S, _POLL_S, _LEAST_S = 60.0, 0.2, 8.0
_LINES = 3  # of a part's output that the summary may quote
_LOG_BYTES = 900 << 10  # of a part's output that the log keeps, its end: less than 16 MiB for all


class Run:
    """One run of all parts into a folder.

    out : the folder.  device : "cuda" or "cpu".  total_s : seconds for all parts.  dry : the tiny commands.
    """

    def __init__(self, out: Path, device: str, total_s: float, dry: bool) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.device, self.dry = out, device, dry
        self.begin, self.total_s = time.monotonic(), total_s
        self.work = Path(tempfile.mkdtemp(prefix="patchcore_fast_gpu_"))
        self.scratch = Path(tempfile.mkdtemp(prefix="patchcore_fast_gpu_", dir=_roomy()))
        self.results: summary.Results = {}
        self.whole: dict[str, Any] = {"benchmark": "gpu", "environment": {}, "parts": [], "targets": []}
        self.whole["options"] = {"total_s": total_s, "dry_run": dry, "device": device, "memory_gb": None}
        here = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}  # kernels, not Python
        self.environment = {**here, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
                            "PATCHCORE_FAST_SCRATCH": str(self.scratch),
                            "TRITON_CACHE_DIR": str(self.work / "triton")}  # fmt: skip

    def left(self) -> float:
        """Seconds that the parts still have."""
        return self.total_s - (time.monotonic() - self.begin)

    def describe(self) -> bool:
        """Ask for the device in a process of its own: a driver that hangs must not hang this one. False: none."""
        said = self.work / "device.json"
        command = ["{python}", "-m", "benchmarks.harness.environment", "{device}"]
        told = self._process(Part("device", _DEVICE_S, tuple(command)), command, said)
        with suppress(OSError, ValueError, IndexError):
            self.whole["environment"] = json.loads(said.read_text().splitlines()[-1])
            told["message"] = ""
        self._note(told)
        return told["status"] == "ok" and bool(self.whole["environment"])

    def part(self, part: Part) -> dict[str, Any]:
        """Run one part; what became of it."""
        command = list(part.small() if self.dry else part.command)
        reason = part.skip() if not self.dry else None if command else part.absent
        if reason:
            return self._note(_told(part, "not run", 0.0, reason))
        if self.left() < _LEAST_S:
            return self._note(_told(part, "not run", 0.0, "no time was left"))
        file = self.work / "part.json"
        file.unlink(missing_ok=True)
        writes = part.into and not (self.dry and part.instead)
        command += ["--json", str(file)] if writes else []
        return self._note(self._process(part, command, self.work / "said", file if writes else None))

    def _process(self, part: Part, command: Sequence[str], said: Path, file: Path | None = None) -> dict[str, Any]:
        names = {"{python}": sys.executable, "{device}": self.device, "{sanitizer}": sanitizer()}
        filled = [names.get(word, word) for word in command]
        most = min(part.most, self.left())
        print(f"== {part.name} (at most {most:.0f} s)", flush=True)
        begin = time.monotonic()
        with open(self.out / "gpu.log", "ab") as log, open(said, "wb") as out:
            log.write(f"\n==== {part.name}: {' '.join(filled)}\n".encode())
            try:
                process = subprocess.Popen(
                    filled, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
                    env={**self.environment, **part.environment},
                )  # fmt: skip
            except OSError as error:
                return _told(part, "failed", 0.0, f"cannot be started: {error}")
            try:
                ended = self._wait(process, begin + most, part, file)
            finally:
                _end(process)
                log.write(said.read_bytes()[-_LOG_BYTES:])
        self._collect(part, file)
        lines = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
        quoted = " / ".join(line.strip()[:120] for line in lines[-_LINES:]) if not part.into else ""
        status = "ended" if not ended else "ok" if process.returncode == 0 else "failed"
        if status == "failed":
            quoted = f"status {process.returncode}: {' / '.join(line.strip()[:160] for line in lines[-1:])}"
        elif status == "ended":
            quoted = f"took longer than it may; {quoted or 'what it had written is kept'}"
        return _told(part, status, time.monotonic() - begin, quoted, process.returncode)

    def _wait(self, process: subprocess.Popen[bytes], until: float, part: Part, file: Path | None) -> bool:
        """Whether it ended by itself; results are taken over as it writes them."""
        seen = 0.0
        while process.poll() is None:
            if time.monotonic() > until:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT)  # pytest then says what it knows, a benchmark ends its workers
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
                return False
            if file and file.exists() and file.stat().st_mtime != seen:
                seen = file.stat().st_mtime
                self._collect(part, file)
            time.sleep(_POLL_S)
        return True

    def _collect(self, part: Part, file: Path | None) -> None:
        """Put what a part has written in place of what it wrote before, beside what others wrote to the same file."""
        if file is None or not file.exists():
            return
        found = records.read(file)
        for problem in found["problems"]:
            problem |= {"part": part.name, "options": found["options"]}
        known = self.results.setdefault(part.into, {**found, "problems": []})
        known["problems"] = [p for p in known["problems"] if p["part"] != part.name] + found["problems"]
        records.write(self.out / f"{part.into}.json", known)

    def _note(self, told: dict[str, Any]) -> dict[str, Any]:
        self.whole["parts"].append(told)
        said = told["message"] and f": {told['message']}"
        print(f"== {told['name']}: {told['status']}, {told['seconds']:.0f} s{said}", flush=True)
        self.write()
        return told

    def write(self) -> None:
        """gpu.json, as far as it is."""
        self.whole["targets"] = summary.targets(self.results)
        records.write(self.out / "gpu.json", self.whole)

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


def _roomy() -> str | None:
    """Memory for the features of large cases, where there is enough; else the usual place. Nothing may be run there."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 32 << 30
    return str(shared) if roomy else None


def run(parts: Sequence[Part], out: Path, device: str, total_s: float = TOTAL_S, dry: bool = False) -> bool:
    """All parts; whether each one that ran was right and in time."""
    going = Run(out, device, total_s, dry)
    try:
        if not going.describe():
            return False
        for part in parts:
            going.part(part)
    finally:
        going.close()
    return all(told["status"] in ("ok", "not run") for told in going.whole["parts"]) and _all_right(going.results)


def _all_right(results: summary.Results) -> bool:
    """No row of our own was wrong; what others get wrong is theirs."""
    rows = [r for result in results.values() for problem in result["problems"] for r in problem["rows"]]
    return not any(r["status"] == "wrong" and r["provider"].startswith("patchcore_fast") for r in rows)


def _terminated(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(143)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, nargs="?", default=os.environ.get("OUT"), metavar="FOLDER", help="or OUT=FOLDER")
    p.add_argument("--dry-run", action="store_true", help="on the CPU with tiny sizes; no time of it means anything")
    p.add_argument("--device", default="cuda", help="default cuda")
    p.add_argument("--only", nargs="+", metavar="PART", help="only these parts, see --list")
    p.add_argument("--total-s", type=float, default=TOTAL_S, help=f"for all parts together; default {TOTAL_S:.0f}")
    p.add_argument("--list", action="store_true", help="print the parts, with what they may take")
    args = p.parse_args(argv)
    if args.list:
        for part in PARTS:
            print(f"  {part.name:<14} {part.most:>4.0f} s  {' '.join(part.command)}")
        return
    if args.out is None or not 1 <= args.total_s <= 1e5:
        raise SystemExit(f"a folder for the results and --total-s >= 1 are wanted, got {args.out} and {args.total_s}")
    if unknown := set(args.only or []) - {part.name for part in PARTS}:
        raise SystemExit(f"--only: {', '.join(sorted(unknown))} unknown; known are {', '.join(x.name for x in PARTS)}")
    signal.signal(signal.SIGTERM, _terminated)
    parts = [part for part in PARTS if not args.only or part.name in args.only]
    right = run(parts, Path(args.out), "cpu" if args.dry_run else args.device, args.total_s, args.dry_run)
    sys.exit(not right)


if __name__ == "__main__":
    main()
