"""For the owner of an 8 GB card: who selects from 1,000,000 x 1,536 and 10,000,000 x 128 rows within 8 GB, how fast?

    python -m benchmarks.gpu.card8gb OUT.json                  # a quarter of an hour; 16 GB of memory, 7 GB of disk
    python -m benchmarks.gpu.card8gb OUT.json --memory-gb 7    # a card that drives a display has no 8 GB to give
    python -m benchmarks.gpu.card8gb OUT.json --dry-run        # on the CPU, tiny sizes: does all of it start and end?

All providers that run there, ours on each backend, each in a process of its own that may allocate so much of the card;
picks are checked before a time counts. One table is printed and one file written, after every measurement: send it as
it is, also when it was cut off. Run `pip install .` first; docs/lab-machines.md says what else.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.gpu import summary
from benchmarks.harness import records, sources

# Few picks: memory is the question, and a plain loop reads all rows for each.
PROBLEMS = (
    ("--case", "million", "--n", "1000000", "--k", "1000"),
    ("--case", "low-rank", "--n", "10000000", "--k", "1000"),
)
TINY = (
    ("--case", "million", "--n", "3000", "--d", "48", "--k", "30"),
    ("--case", "low-rank", "--n", "4000", "--d", "16", "--k", "30"),
)
COMMON = ("--repeat", "2", "--limit-s", "15", "--check-picks", "200", "--answer-s", "300")
BACKENDS = (
    "cuda",
    "triton",
    "cuda 512 MB",
    "triton 512 MB",
)  # besides the usual providers; not here: said in the table
_WITHOUT = ("amazon exact",)  # N x N
_POLL_S = 0.5


def command(problem: tuple[str, ...], device: str, memory_gb: float, out: Path, dry: bool) -> list[str]:
    """Of one problem."""
    who = ("--providers", "torch") if dry else ("--also", *BACKENDS, "--without", *_WITHOUT)
    script = (sys.executable, "-m", "benchmarks.speed.kcenter", *problem, *COMMON, *who)
    return [*script, "--device", device, "--memory-gb", f"{memory_gb:g}", "--json", str(out)]


def taken(whole: dict[str, Any], file: Path) -> dict[str, Any]:
    """The result, and behind it what a problem's process has written so far, if it can be read."""
    try:
        found = records.read(file)
        summary.check(found)
    except (SystemExit, Exception):
        return whole
    return {**found, **({"problems": [*whole["problems"], *found["problems"]]} if whole else {})}


def run(out: Path, device: str, memory_gb: float, dry: bool) -> list[str]:
    """What went wrong; empty where nothing did."""
    whole: dict[str, Any] = {}
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for i, problem in enumerate(TINY if dry else PROBLEMS):
            file, before = Path(folder, f"{i}.json"), whole
            process = subprocess.Popen(command(problem, device, memory_gb, file, dry), cwd=ROOT)
            try:
                while True:
                    try:
                        code = process.wait(_POLL_S)
                        break
                    except subprocess.TimeoutExpired:
                        if file.exists() and (now := taken(before, file)) != whole:
                            whole = now
                            records.write(out, whole)
            finally:
                process.terminate()  # it ends its workers
                process.wait()
                whole = taken(before, file)
                if whole:
                    records.write(out, whole)
            if code:
                wrong.append(f"{' '.join(problem)}: status {code}")
    if whole:
        print("\n".join(["", *summary.texts(whole)]))
    return wrong


def main(argv: list[str] | None = None) -> None:
    """See above."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, metavar="OUT.json", help="the file to send")
    p.add_argument("--device", default="cuda", help="default cuda")
    p.add_argument("--memory-gb", type=float, default=8.0, help="that each may allocate; 2^30 bytes each; default 8")
    p.add_argument("--dry-run", action="store_true", help="on the CPU with tiny sizes; no time of it means anything")
    args = p.parse_args(argv)
    if not 1 <= args.memory_gb <= 1000:
        raise SystemExit(f"--memory-gb: 1 to 1000 are wanted, got {args.memory_gb}")
    if sources.commit() == sources.UNKNOWN:
        raise SystemExit(f"which commit is this? There is no git here, and {sources.VARIABLE} is not set: set it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if wrong := run(args.out, "cpu" if args.dry_run else args.device, args.memory_gb, args.dry_run):
        sys.exit(f"not all of it ran: {'; '.join(wrong)}")
    print(f"\n{args.out} is the file to send")


if __name__ == "__main__":
    main()
