"""Greedy by alpha * distance + gain: the batched run beside plain loops, one pass over all rows a pick.

    python -m benchmarks.speed.additive                                    # 50,000 x 128, 500 picks, about 2 minutes
    python -m benchmarks.speed.additive --features X.npy --picks 1500 --json benchmarks/results/DEVICE/additive.json

Compared are
    batched        patchcore_fast.kernels.additive_greedy
    float64 loop   differences in float64, as the reference: its picks are the same
    float32 loop   one matrix-vector product a pick, |x|^2 + |y|^2 - 2 x.y: as cheap as a loop gets; picks may differ

Before any time is shown the batched picks must be those of `kcenter.reference.additive_greedy_reference` on the first
2,000 rows. Gains are uniform in 0..scale * s, s the spread of the rows. Runs are interleaved and medians shown; memory
is the peak of the process beyond what was resident before the call (Linux).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import memory, records
from benchmarks.harness.environment import describe
from patchcore_fast.kernels import additive_greedy
from patchcore_fast.kernels.kcenter.reference import additive_greedy_reference

CHECKED = 2000  # rows


def batched(x: Tensor, k: int, gain: Tensor) -> Tensor:
    return additive_greedy(x, k, gain).indices


def float64_loop(x: Tensor, k: int, gain: Tensor) -> Tensor:
    wide = x.double()
    return _loop(k, gain.double(), lambda row: (wide - wide[row]).square_().sum(1))


def float32_loop(x: Tensor, k: int, gain: Tensor) -> Tensor:
    norms = x.square().sum(1)
    return _loop(k, gain, lambda row: torch.addmv(norms + norms[row], x, x[row], alpha=-2).clamp_(min=0))


def _loop(k: int, gain: Tensor, squared_to: Callable[[int], Tensor]) -> Tensor:
    picks, key, nearest = [], gain.clone(), torch.full_like(gain, torch.inf)
    for _ in range(k):
        picks.append(int(key.argmax()))
        torch.minimum(nearest, squared_to(picks[-1]), out=nearest)
        key = nearest.sqrt().add_(gain)
        key[picks] = -torch.inf
    return torch.tensor(picks)


METHODS: dict[str, Callable[[Tensor, int, Tensor], Tensor]] = {
    "batched": batched, "float64 loop": float64_loop, "float32 loop": float32_loop,
}  # fmt: skip


def check(x: Tensor, k: int, gain: Tensor) -> None:
    """SystemExit where the picks are not the plain algorithm's."""
    x, gain, k = x[:CHECKED], gain[:CHECKED], min(k, 100, len(x))
    want, _ = additive_greedy_reference(x, k, gain)
    if not torch.equal(additive_greedy(x, k, gain).indices, want):
        raise SystemExit("the batched picks are not those of the plain loop; no times are shown")


def measure(x: Tensor, k: int, scale: float, rounds: int) -> dict[str, Any]:
    """Check, then time in turns."""
    spread = float((x - x.mean(0)).square().sum(1).mean().sqrt())
    gain = torch.rand(len(x), generator=torch.Generator().manual_seed(1)) * (scale * spread)
    check(x, k, gain)
    seconds: dict[str, list[float]] = {m: [] for m in METHODS}
    extra: dict[str, int] = {}
    picks: dict[str, Tensor] = {}
    for _ in range(rounds):
        for m, method in METHODS.items():
            memory.forget_peak()
            before, start = memory.resident(), time.perf_counter()
            picks[m] = method(x, k, gain)
            seconds[m].append(time.perf_counter() - start)
            extra[m] = max(extra.get(m, 0), memory.peak() - before)
    found = additive_greedy(x, k, gain)
    base = statistics.median(seconds["batched"])
    rows = [{"method": m, "median_s": statistics.median(s), "runs_s": s, "ratio": statistics.median(s) / base,
             "extra_bytes": extra[m], "same_picks": int((picks[m] == picks["batched"]).sum())}
            for m, s in seconds.items()]  # fmt: skip
    return {"n": len(x), "d": x.shape[1], "k": k, "scale": scale, "passes": found.passes,
            "share_of_distances": found.distances / (len(x) * k), "rows": rows}  # fmt: skip


def as_text(p: dict[str, Any]) -> str:
    """A Markdown table."""
    lines = [f"**{p['n']:,} x {p['d']:,}, {p['k']:,} picks, gains to {p['scale']:g} of the spread**: "
             f"{p['passes']} passes, {p['share_of_distances']:.0%} of N * k distances", "",
             "| method | time | to batched | extra memory | same picks |", "|---|---:|---:|---:|---:|"]  # fmt: skip
    for r in p["rows"]:
        lines.append(f"| {r['method']} | {records.seconds(r['median_s'])} | {records.ratio(r['ratio'])} | "
                     f"{records.size(r['extra_bytes'])} | {r['same_picks']} |")  # fmt: skip
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--picks", type=int, default=500, metavar="K")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--features", metavar="X.npy", help="real patch features [rows, D] in place of random ones")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    if args.features:
        x = torch.from_numpy(np.load(args.features)).float()[: args.rows].contiguous()
    else:
        x = torch.randn(args.rows, args.dim, generator=torch.Generator().manual_seed(0))
    if not 1 <= args.picks <= len(x):
        raise SystemExit(f"--picks: 1 to {len(x)} are wanted, got {args.picks}")
    result: dict[str, Any] = {"benchmark": "additive", "environment": describe("cpu"), "load_before": load,
                              "features": "given" if args.features else "normal random", "problems": []}  # fmt: skip
    print(f"{torch.get_num_threads()} threads; load of the machine before: {load:.1f}\n")
    for scale in args.scales:
        result["problems"].append(measure(x, args.picks, scale, args.rounds))
        print(as_text(result["problems"][-1]), flush=True)
    if args.json:
        records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
