"""Time and memory of ELFSCoresetSampler against plain exact greedy, on image features in image order.

    python -m benchmarks.speed.elfs mvtec/bottle --banks 0.01 0.1 --json FILE
    python -m benchmarks.speed.elfs --images 1000                 # synthetic: smooth fields, 32 x 32 patches each

Each run is a process of its own; runs are interleaved, times are medians, after one selection that is not counted.
Memory is the growth of the peak (VmHWM) over what was resident with the features there. First the check: with settle=0
and without pruning the picks must be greedy's, index for index.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT
from benchmarks.harness import memory, records
from benchmarks.harness.environment import describe
from patchcore_fast.samplers import ELFSCoresetSampler, GreedyCoresetSampler

SAMPLERS: dict[str, Any] = {
    "greedy": GreedyCoresetSampler,
    "elfs": lambda share: ELFSCoresetSampler(share, prune_support="rule"),
    "elfs pseudo": lambda share: ELFSCoresetSampler(share, mode="pseudo", prune_support="rule"),
}
GRID = 32


def features(folder: str | None, images: int, dim: int) -> torch.Tensor:
    """[N, D] of a folder's training images by the default pipeline, or of smooth random fields."""
    if folder is not None:
        from patchcore_fast.model import PatchCore

        return PatchCore(progress=False).training_features(folder).features
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(16, dim, generator=generator)
    out = torch.empty(images * GRID * GRID, dim)
    for i in range(0, images, 50):
        count = min(50, images - i)
        coarse = torch.randn(count, 16, 8, 8, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, size=GRID, mode="bicubic")
        rows = fine.permute(0, 2, 3, 1).reshape(-1, 16) @ mix
        out[i * GRID * GRID : (i + count) * GRID * GRID] = rows + 0.3 * torch.randn(rows.shape, generator=generator)
    return out


def one(name: str, share: float, x: torch.Tensor) -> dict[str, Any]:
    """One selection, timed, with the growth of memory."""
    SAMPLERS[name](0.05).select(x[: 20 * GRID * GRID])
    memory.forget_peak()
    before = memory.resident()
    sampler = SAMPLERS[name](share)
    begin = time.perf_counter()
    sampler.select(x)
    seconds = time.perf_counter() - begin
    found = {"seconds": seconds, "extra_bytes": max(0, memory.peak() - before), "rows": list(x.shape)}
    return found | {"report": getattr(sampler, "report_", None)}


def check(x: torch.Tensor) -> None:
    """SystemExit where the picks are not greedy's."""
    mine = ELFSCoresetSampler(0.001, prune_support=False, settle=0.0).select(x)
    if not torch.equal(mine, GreedyCoresetSampler(0.001).select(x)):
        raise SystemExit("without pruning and settling the picks are not those of greedy")


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", nargs="?", help="MVTec layout, or normal images; default: synthetic")
    p.add_argument("--images", type=int, default=300)
    p.add_argument("--dim", type=int, default=152)
    p.add_argument("--banks", type=float, nargs="+", default=[0.01, 0.1], metavar="SHARE")
    p.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["greedy", "elfs"], metavar="NAME")
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--json", metavar="FILE")
    p.add_argument("--one", nargs=2, metavar=("NAME", "SHARE"), help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if args.one:
        x = features(args.folder, args.images, args.dim)
        print(json.dumps(one(args.one[0], float(args.one[1]), x)))
        return
    check(features(args.folder, args.images, args.dim))
    folder = [str(Path(args.folder).resolve())] if args.folder else []
    same = [
        sys.executable,
        "-m",
        "benchmarks.speed.elfs",
        *folder,
        "--images",
        str(args.images),
        "--dim",
        str(args.dim),
    ]
    runs: dict[tuple[str, float], list[dict[str, Any]]] = {(n, b): [] for b in args.banks for n in args.samplers}
    for _ in range(args.repeat):
        for name, bank in runs:
            done = subprocess.run(
                [*same, "--one", name, str(bank)], cwd=ROOT, capture_output=True, text=True, check=True
            )
            runs[name, bank].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for (name, bank), found in runs.items():
        base = statistics.median(r["seconds"] for r in runs[args.samplers[0], bank])
        median = statistics.median(r["seconds"] for r in found)
        row = {"sampler": name, "bank": bank, "rows": found[0]["rows"], "runs": len(found), "median_s": median}
        row |= {"min_s": min(r["seconds"] for r in found), "max_s": max(r["seconds"] for r in found)}
        row |= {"ratio": median / base, "extra_bytes": max(r["extra_bytes"] for r in found)}
        rows.append(row | {"stages": found[0]["report"] and found[0]["report"]["seconds"]})
        n, d = found[0]["rows"]
        said = f"{n:,} x {d}, {100 * bank:g} %: {name:<12} {records.seconds(median)}"
        print(f"{said} ({row['ratio']:.2f} x {args.samplers[0]}), extra memory {records.size(row['extra_bytes'])}")
    if args.json:
        source = Path(args.folder).resolve().name if args.folder else "smooth fields"
        result = {"benchmark": "elfs", "source": source, "environment": describe("cpu"), "rows": rows}
        records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
