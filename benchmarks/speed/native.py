"""The native CPU engine against what this machine can do: by instruction set and thread count, with a roofline.

    python -m benchmarks.speed.native --quick                  # seconds
    python -m benchmarks.speed.native                          # about five minutes on two idle cores
    python -m benchmarks.speed.native --isa avx2 amx --repeat 5 --json out.json --plot out.png

First csrc/tests/roofline.cpp is built (CMake, Ninja, a C++ compiler) and run: peaks of the instructions, bandwidths,
tiles, the cost of a row. Then whole runs of our engine, held to each instruction set, on one thread and on all, and for
k-center also with every distance computed (Tuning(prune="none")); interleaved, and checked as in kcenter.py and knn.py
before a time is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT
from benchmarks.harness import records, script
from benchmarks.harness.environment import describe
from benchmarks.harness.providers.own import forced, isas_here
from benchmarks.speed import kcenter, knn

KCENTER = ("photos", 156_800, [0.01, 0.1])
QUICK_KCENTER = ("clustered", 6000, [0.1])
QUICK_KNN = [("clustered", 2000, 4000, 64)]
_BUILD_S, _RUN_S = 300, 300  # seconds that building and measuring may take


def _tool(name: str) -> str:
    beside = sysconfig.get_path("scripts")  # a virtual environment need not be activated to be used
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), beside]))
    if found is None:
        raise OSError(f"{name} is not there")
    return found


def build() -> Path:
    """The program of csrc/tests/roofline.cpp, up to date. Raises OSError or subprocess.SubprocessError."""
    folder = ROOT / "build" / "roofline"
    settings = ["-DCMAKE_BUILD_TYPE=Release", "-DPCF_PYTHON=OFF", "-DPCF_TESTS=ON"]
    configure = [_tool("cmake"), "-S", str(ROOT / "csrc"), "-B", str(folder), "-G", "Ninja", *settings]
    for command in (
        [*configure, f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}"],
        [configure[0], "--build", str(folder), "--target", "roofline"],
    ):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_S)
    return folder / "roofline"


def machine(rounds: int, milliseconds: float) -> dict[str, Any]:
    """What roofline.cpp prints, or {"message": why there is nothing}."""
    try:
        command = [str(build()), str(rounds), str(milliseconds), str(torch.get_num_threads())]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_RUN_S)
        return json.loads(told.stdout)
    except subprocess.CalledProcessError as error:
        lines = ((error.stdout or "") + (error.stderr or "")).strip().splitlines() or ["no message"]
        said = next((line for line in lines if "error" in line.lower()), lines[-1])
        return {"message": f"{Path(error.cmd[0]).name} ended with status {error.returncode}: {said.strip()[:200]}"}
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"message": str(error)[:300]}


def providers(isas: list[str], one: bool, *variants: str) -> list[str]:
    """Names: each instruction set on all threads, on one (if that is less), in the variants."""
    suffixes = ["", *([" x1"] if one else []), *(f" {v}" for v in variants)]
    return [forced(isa, suffix) for isa in isas for suffix in suffixes]


def runs(args: argparse.Namespace, isas: list[str]) -> list[dict[str, Any]]:
    """Whole runs of the engine, as problems of harness/records.py."""
    one = torch.get_num_threads() > 1
    common = {"device": "cpu", "repeat": args.repeat, "limit_s": 60.0, "memory_gb": None, "seed": args.seed}
    common |= {"plugin": None, "without": [], "isa": None, "features": None, "images": None, "d": None}
    common |= {"also": [], "answer_s": None, "warm": False, "together": False, "json": None, "plot": None}
    case, n, ratios = QUICK_KCENTER if args.quick else KCENTER
    asked = argparse.Namespace(**common, providers=providers(isas, one, "unpruned"), case=[case], n=[n], ratio=ratios,
                               k=None, check_picks=args.check_picks)  # fmt: skip
    picked = script.measure(asked, "kcenter", kcenter.measure)
    asked = argparse.Namespace(**common, providers=providers(isas, one), k=[9])
    found = script.measure(asked, "knn", partial(knn.measure, problems=QUICK_KNN if args.quick else knn.FULL))
    return picked["problems"] + found["problems"]


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--isa", nargs="+", metavar="NAME", help="default: all that run here but portable")
    p.add_argument("--repeat", type=int, default=3, help="interleaved runs of each; default 3")
    p.add_argument("--rounds", type=int, default=7, help="of roofline.cpp; default 7")
    p.add_argument("--check-picks", type=int, default=4000, help="check this many leading picks; default 4,000")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", metavar="FILE", help="write the result")
    p.add_argument("--plot", metavar="FILE.png", help="write the roofline")
    p.add_argument("--quick", action="store_true", help="small problems, one round")
    args = p.parse_args(argv)
    if min(args.repeat, args.rounds, args.check_picks) < 1 or args.seed < 0:
        raise SystemExit("--repeat, --rounds, --check-picks: at least 1 is wanted; --seed: at least 0")
    here = isas_here()
    if not here:
        raise SystemExit("the native engine is not installed here; patchcore-fast doctor says why")
    isas = args.isa or [isa for isa in here if isa != "portable"] or here
    if unknown := [isa for isa in isas if isa not in here]:
        raise SystemExit(f"--isa: {', '.join(unknown)} cannot run here; {', '.join(here)} can")
    asked = {"repeat": args.repeat, "memory_gb": None, "device": "cpu", "seed": args.seed, "isas": isas}
    result: dict[str, Any] = {"benchmark": "native", "environment": describe("cpu"), "options": asked}
    result["machine"] = machine(1, 2) if args.quick else machine(args.rounds, 10)
    result["problems"] = runs(args, isas)
    if args.json:
        records.write(args.json, result)
    if "message" in result["machine"]:  # the runs are kept all the same
        sys.exit(f"no roofline: {result['machine']['message']}")
    from benchmarks.pages import roofline

    print("\n" + "\n".join(roofline.tables(result)))
    if args.plot:
        Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
        roofline.plot(result, args.plot)
        print(f"\nfigure: {args.plot}")


if __name__ == "__main__":
    main()
