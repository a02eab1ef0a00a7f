"""Install this tree with the CUDA kernels, for the card that is here: the first part of run.py.

    python -m benchmarks.gpu.build           # builds nothing where a module with kernels for this card is installed
    python -m benchmarks.gpu.build --force

Where the CUDA build fails the rest is installed without it, for what does not need it; the status is then 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from benchmarks import ROOT

# Prints the compute capability of the card, and whether kernels for it are there: a process of its own, as the module
# that it loads may be about to be replaced.
STATE = """
import torch
print("{}{}".format(*torch.cuda.get_device_capability()))
from patchcore_fast.kernels.backends.cuda_backend import CUDA
print(CUDA.refuse(torch.device("cuda")) or "ready")
"""


def state() -> tuple[str, str]:
    """The card's architecture, as nvcc counts, and "ready" or why its kernels are not there."""
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.split("\n")
    if not lines[0].isdigit():
        raise SystemExit(f"no CUDA device: {(done.stderr.strip().splitlines() or ['torch says nothing'])[-1]}")
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return lines[0], lines[1] if len(lines) > 2 else last


def install(more: dict[str, str]) -> int:
    """The exit status of pip."""
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", "."]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **more}).returncode


def main(argv: list[str] | None = None) -> None:
    """See above."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--force", action="store_true", help="build in any case")
    args = p.parse_args(argv)
    arch, found = state()
    if found == "ready" and not args.force:
        print(f"CUDA kernels for compute capability {arch[:-1]}.{arch[-1]} are there")
        return
    print(f"building for {arch}: {found}", flush=True)
    if install({"PATCHCORE_FAST_NATIVE": "1", "PATCHCORE_FAST_CUDA": "1", "PATCHCORE_FAST_CUDA_ARCHS": arch}):
        status = install({"PATCHCORE_FAST_CUDA": "0"})
        sys.exit(f"the CUDA build failed; without it: {'failed too' if status else 'installed'}")
    arch, found = state()
    sys.exit(None if found == "ready" else f"built, and yet: {found}")


if __name__ == "__main__":
    main()
