"""Selection time beside one fused matrix-vector product per pick, the best a sequential loop can do.

    python benchmarks/kcenter.py                        # 156,800 x 128 real features, 1 % and 10 %
    python benchmarks/kcenter.py --features X.npy --ratio 0.01 --repeat 5 --json out.json

Correctness comes first: the picks of the timed runs must be a valid greedy trace in float64, or no time is shown. Runs
are interleaved and medians reported; extra memory on the CPU is the peak of a process of its own.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from common import environment, interleaved, real_features, selection_extra_bytes, write_json

from patchcore_fast.demo.baseline import one_pick_at_a_time
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall

TOLERANCE = 1e-5


def measure(features: torch.Tensor, k: int, repeat: int, device: str) -> dict:
    n, dim = features.shape
    extra = selection_extra_bytes(features, k)
    calls = {
        "patchcore_fast": lambda: k_center_greedy(features, k, start=0),
        "gemv loop": lambda: one_pick_at_a_time(features, k, 0),
    }
    results, times = interleaved(calls, repeat, device)
    ours, loop = results["patchcore_fast"], results["gemv loop"]
    shortfall = {"patchcore_fast": greedy_shortfall(features, ours.indices)}
    if shortfall["patchcore_fast"] > TOLERANCE:
        raise SystemExit(f"not a greedy trace: {shortfall}")
    equal = torch.equal(ours.indices, loop.indices)
    shortfall["gemv loop"] = shortfall["patchcore_fast"] if equal else greedy_shortfall(features, loop.indices)
    ratio = times["gemv loop"]["median_s"] / times["patchcore_fast"]["median_s"]
    same = int((ours.indices == loop.indices).long().cumprod(0).sum())
    share = ours.distances / (n * k)
    print(f"\nN = {n:,}, D = {dim}, k = {k:,}: {ours.passes} passes, {share:.0%} of N k distances")
    print(f"  float64 shortfall {shortfall['patchcore_fast']:.1e}, of the float32 loop {shortfall['gemv loop']:.1e}")
    print(f"  the float32 loop's first {same:,} picks are the same")
    for name, t in times.items():
        print(f"  {name:<15} {t['median_s']:8.3f} s   ({t['min_s']:.3f} .. {t['max_s']:.3f}, {t['runs']} runs)")
    print(f"  {ratio:.1f} times faster; extra memory {extra / 2**20:.0f} MB (limit {64 * n / 2**20 + 256:.0f} MB)")
    return {
        "n": n,
        "d": dim,
        "k": k,
        "passes": ours.passes,
        "share_of_distances": share,
        "times": times,
        "ratio": ratio,
        "float64_shortfall": shortfall,
        "extra_bytes": extra,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", metavar="X.npy", help="[N, D] float array; default: extracted here")
    parser.add_argument("--n", type=int, default=156_800, help="rows of the extracted features")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    features = torch.from_numpy(np.load(args.features)) if args.features else real_features(args.n)
    features = features.to(args.device)
    result = {"environment": environment(args.device), "features": args.features or "photographs, EfficientNet-Lite0"}
    result["cases"] = [measure(features, int(r * len(features)), args.repeat, args.device) for r in args.ratio]
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
