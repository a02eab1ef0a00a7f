"""Influence of every dimension on the patch score: the closed form beside autograd and the loop over dimensions.

    python -m benchmarks.speed.influence                                        # 2 problems at D = 1024, about a minute
    python -m benchmarks.speed.influence --features X.npy --json benchmarks/results/DEVICE/influence.json

Compared are
    closed form            patchcore_fast.scorers.influence: one search, then k differences a row
    autograd, all          torch.cdist N x M, topk, mean, backward
    autograd, neighbours   the same search as ours, then the k neighbours gathered (N x k x D), norm, mean, backward
    loop, searched         D + 1 forward passes with the same search as ours: row i + h in one dimension at a time
    loop, neighbours kept  one search, then D forward passes over the k neighbours only: as cheap as a loop gets

Before any time is shown each is checked on 128 rows against float64 autograd over all distances: closed form and
autograd to 1e-5, the loops, which are finite differences in float32, to 2 % of the largest influence in 95 % of the
values. Runs are interleaved and medians shown (the searched loop runs once); memory is the peak of the process beyond
what was resident before the call (Linux), results included.
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
from patchcore_fast.kernels import knn
from patchcore_fast.scorers import influence

CHECKED, SMALL = 128, 512  # rows checked; the loops run on problems of at most SMALL rows
STEP = 2e-4  # h, in units of the mean nearest distance


def closed_form(x: Tensor, bank: Tensor, k: int) -> Tensor:
    return influence(x, bank, k).influence


def autograd_all(x: Tensor, bank: Tensor, k: int) -> Tensor:
    x = x.detach().requires_grad_()
    torch.cdist(x, bank).topk(k, dim=1, largest=False).values.mean(1).sum().backward()
    assert x.grad is not None
    return x.grad.abs()


def autograd_neighbours(x: Tensor, bank: Tensor, k: int) -> Tensor:
    _, near = knn(x, bank, k)
    x = x.detach().requires_grad_()
    torch.linalg.vector_norm(x[:, None] - bank[near], dim=2).mean(1).sum().backward()
    assert x.grad is not None
    return x.grad.abs()


def loop_searched(x: Tensor, bank: Tensor, k: int) -> Tensor:
    before = knn(x, bank, k)[0].mean(1)
    h = STEP * float(before.mean())
    out, moved = torch.empty_like(x), x.clone()
    for i in range(x.shape[1]):
        moved[:, i] += h
        out[:, i] = (knn(moved, bank, k)[0].mean(1) - before).abs_() / h
        moved[:, i] = x[:, i]
    return out


def loop_kept(x: Tensor, bank: Tensor, k: int) -> Tensor:
    dist, near = knn(x, bank, k)
    h = STEP * float(dist.mean())
    difference, before, out = x[:, None] - bank[near], dist.mean(1), torch.empty_like(x)
    for i in range(x.shape[1]):
        kept = difference[:, :, i].clone()
        difference[:, :, i] += h
        out[:, i] = (torch.linalg.vector_norm(difference, dim=2).mean(1) - before).abs_() / h
        difference[:, :, i] = kept
    return out


METHODS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "closed form": closed_form, "autograd, all": autograd_all, "autograd, neighbours": autograd_neighbours,
    "loop, searched": loop_searched, "loop, neighbours kept": loop_kept,
}  # fmt: skip


def error(method: str, x: Tensor, bank: Tensor, k: int) -> float:
    """Largest difference (loops: 95th percentile) to float64 autograd; SystemExit where it is too large."""
    x = x[:CHECKED]
    wide = x.double().requires_grad_()
    exact = torch.cdist(wide, bank.double(), compute_mode="donot_use_mm_for_euclid_dist")
    exact.topk(k, dim=1, largest=False).values.mean(1).sum().backward()
    assert wide.grad is not None
    true = wide.grad.abs()
    wrong = (METHODS[method](x, bank, k) - true).abs().flatten()
    loop = method.startswith("loop")
    # Within a step of h a neighbour changes here and there, and the difference is then between two slopes.
    found = float(wrong.sort().values[int(0.95 * len(wrong))] if loop else wrong.max())
    allowed = 0.02 * float(true.max()) if loop else 1e-5
    if not found <= allowed:
        raise SystemExit(f"{method}: off by {found:.2e}, {allowed:.2e} allowed; no times are shown")
    return found


def measure(name: str, x: Tensor, bank: Tensor, k: int, rounds: int) -> dict[str, Any]:
    """Check, then time in turns, then look at memory."""
    methods = [m for m in METHODS if len(x) <= SMALL or not m.startswith("loop")]
    errors = {m: error(m, x, bank, k) for m in methods}
    seconds: dict[str, list[float]] = {m: [] for m in methods}
    extra: dict[str, int] = {}
    for turn in range(rounds):
        for m in methods:
            if turn and m == "loop, searched":
                continue  # a quarter of a minute and more, and hundreds of times the others: once will do
            memory.forget_peak()
            before = memory.resident()
            start = time.perf_counter()
            result = METHODS[m](x, bank, k)
            seconds[m].append(time.perf_counter() - start)
            extra[m] = max(extra.get(m, 0), memory.peak() - before)
            del result
    base = statistics.median(seconds["closed form"])
    rows = [{"method": m, "median_s": statistics.median(s), "runs_s": s, "ratio": statistics.median(s) / base,
             "extra_bytes": extra[m], "error": errors[m]} for m, s in seconds.items()]  # fmt: skip
    return {"case": name, "queries": len(x), "n": len(bank), "d": x.shape[1], "k": k, "rows": rows}


def as_text(p: dict[str, Any]) -> str:
    """A Markdown table."""
    lines = [f"**{p['case']}**: {p['queries']:,} patches, bank of {p['n']:,}, D = {p['d']:,}, k = {p['k']}", "",
             "| method | time | to closed form | extra memory | error |", "|---|---:|---:|---:|---:|"]  # fmt: skip
    for r in p["rows"]:
        lines.append(f"| {r['method']} | {records.seconds(r['median_s'])} | {records.ratio(r['ratio'])} | "
                     f"{records.size(r['extra_bytes'])} | {r['error']:.0e} |")  # fmt: skip
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--neighbours", type=int, default=5, metavar="K")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--features", metavar="X.npy", help="real patch features [rows, D] in place of random ones")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    result: dict[str, Any] = {"benchmark": "influence", "environment": describe("cpu"), "load_before": load}
    result["problems"] = []
    print(f"{torch.get_num_threads()} threads; load of the machine before: {load:.1f}\n")
    for queries, rows in ((256, 2000), (8192, 4096)):
        if args.features:
            whole = torch.from_numpy(np.load(args.features)).float()
            drawn = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
            if len(drawn) < queries + rows:
                raise SystemExit(f"{args.features}: {queries + rows} rows are wanted, got {len(drawn)}")
            x, bank, name = whole[drawn[:queries]], whole[drawn[queries : queries + rows]], "given features"
        else:
            generator = torch.Generator().manual_seed(0)
            x, bank = (torch.randn(n, args.dim, generator=generator) for n in (queries, rows))
            name = "normal random"
        result["problems"].append(measure(name, x.contiguous(), bank.contiguous(), args.neighbours, args.rounds))
        print(as_text(result["problems"][-1]), flush=True)
    if args.json:
        records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
