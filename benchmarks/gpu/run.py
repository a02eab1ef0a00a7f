"""Everything that wants a CUDA device: tests, sanitizers, benchmarks, in calls of less than nine minutes each.

    bash benchmarks/gpu.sh FOLDER                # call A of parts.py: the figures that were asked for come first
    bash benchmarks/gpu.sh FOLDER --call B       # Triton, tests, sanitizers, large cases; then C, the rest
    bash benchmarks/gpu.sh FOLDER --only "kcenter 1 %" knn
    bash benchmarks/gpu.sh FOLDER --dry-run      # on the CPU, tiny sizes: does all of it start and end?

Each part is a process with a time after which it is ended; one that fails or hangs does not stop the others. Results
are written after every measurement, so that what is there when all of it is cut off is good: FOLDER/gpu.json (parts,
targets, device; of call B gpu-b.json), gpu.log (all output), and at most six result files as harness/records.py has
them, under other names in each call, so that folders of several calls can be put together. Nothing needs a network.
It refuses to start where the commit is not known: in a copy without git PATCHCORE_FAST_COMMIT says it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks.gpu.parts import CALLS
from benchmarks.gpu.runner import run
from benchmarks.harness import sources

TOTAL_S = 522.0  # for all parts of a call; nine minutes less the time to start, and to write and print at the end


def _terminated(*_: object) -> None:
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    raise SystemExit(143)


def name_of(call: str) -> str:
    """Of a call's summary and log."""
    return "gpu" if call == "A" else f"gpu-{call.lower()}"


def main(argv: list[str] | None = None) -> None:
    """See above."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, nargs="?", default=os.environ.get("OUT"), metavar="FOLDER", help="or OUT=FOLDER")
    p.add_argument("--call", choices=CALLS, default="A", help="which parts, see --list; default A")
    p.add_argument("--dry-run", action="store_true", help="on the CPU with tiny sizes; no time of it means anything")
    p.add_argument("--device", default="cuda", help="default cuda")
    p.add_argument("--only", nargs="+", metavar="PART", help="only these parts of the call")
    p.add_argument("--total-s", type=float, default=TOTAL_S, help=f"for all parts together; default {TOTAL_S:.0f}")
    p.add_argument("--list", action="store_true", help="print the parts, with what they may take")
    args = p.parse_args(argv)
    if args.list:
        for call, parts in CALLS.items():
            print(f"{call}: {sum(part.most for part in parts):.0f} of {TOTAL_S:.0f} s")
            for part in parts:
                print(f"  {part.name:<16} {part.most:>4.0f} s  {' '.join(part.command)}")
        return
    if args.out is None or not 1 <= args.total_s <= 1e5:
        raise SystemExit(f"a folder for the results and --total-s >= 1 are wanted, got {args.out} and {args.total_s}")
    parts = CALLS[args.call]
    if unknown := set(args.only or []) - {part.name for part in parts}:
        known = ", ".join(part.name for part in parts)
        raise SystemExit(f"--only: {', '.join(sorted(unknown))} unknown; call {args.call} has {known}")
    if sources.commit() == sources.UNKNOWN:
        raise SystemExit(f"which commit is this? There is no git here, and {sources.VARIABLE} is not set: set it")
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, _terminated)
    wanted = [part for part in parts if not args.only or part.name in args.only]
    device = "cpu" if args.dry_run else args.device
    sys.exit(not run(wanted, Path(args.out), device, args.total_s, args.dry_run, name_of(args.call)))


if __name__ == "__main__":
    main()
