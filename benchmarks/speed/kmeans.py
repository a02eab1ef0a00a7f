"""k-means on a sample, then every row to its centre: ours beside faiss.Kmeans, on the same number of sampled rows.

    python -m benchmarks.speed.kmeans --quick
    python -m benchmarks.speed.kmeans                                  # 300,000 x 128 rows around 500 seeded centres
    python -m benchmarks.speed.kmeans --features X.npy --clusters 64 256 --json out.json

What is compared is the time and the inertia, the sum of squared distances of all rows to the centres that each found,
computed alike for both by an exact search. Before that, the labels of each are checked on 2,000 rows by float64 brute
force against its own centres: a row may be off by 1e-4 of its squared norm, as faiss searches in expanded float32. Runs
are interleaved, each round with a seed of its own; medians are shown, and ratios to ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.kernels import knn
from patchcore_fast.scores import k_means

SAMPLE = 2000  # rows that are checked
ITERATIONS = 10


def ours(x: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    found = k_means(x, clusters, iterations=ITERATIONS, seed=seed, progress=False)
    return found.centers.numpy(), found.labels.numpy()


def peer(x: np.ndarray, clusters: int, seed: int, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    means = faiss.Kmeans(x.shape[1], clusters, niter=iterations, seed=seed + 1)  # 256 rows a centre by default
    means.train(x)
    return means.centroids, means.index.search(x, 1)[1][:, 0]


PROVIDERS = {
    "patchcore_fast, 10 iterations": ours,
    "faiss, 10 iterations": lambda x, c, s: peer(x, c, s, ITERATIONS),
    "faiss, 25 iterations (its default)": lambda x, c, s: peer(x, c, s, 25),
}


def synthetic(n: int, d: int) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.standard_normal((500, d), dtype=np.float32) * 2
    return centres[random.integers(500, size=n)] + random.standard_normal((n, d), dtype=np.float32)


def check(name: str, x: np.ndarray, centers: np.ndarray, labels: np.ndarray) -> None:
    """Labels must be of the nearest centres, in float64."""
    rows = np.random.default_rng(1).choice(len(x), min(SAMPLE, len(x)), replace=False)
    part = x[rows].astype(np.float64)
    true = np.stack([((part - c) ** 2).sum(1) for c in centers.astype(np.float64)], 1)
    off = true[np.arange(len(rows)), labels[rows]] - true.min(1)
    if not (off <= 1e-4 * (part**2).sum(1)).all():
        raise SystemExit(f"{name}: {(off > 0).sum()} of {len(rows)} rows are not at their nearest centre")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help=".npy of [N, D] floats")
    parser.add_argument("--n", type=int, default=300_000)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--clusters", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="30,000 rows, 3 rounds")
    args = parser.parse_args(argv)
    if args.quick:
        args.n, args.repeat = min(args.n, 30_000), min(args.repeat, 3)
    x = np.load(args.features)[: args.n].astype(np.float32) if args.features else synthetic(args.n, args.d)
    x = np.ascontiguousarray(x)
    faiss.omp_set_num_threads(torch.get_num_threads())
    result = {"benchmark": "kmeans", "environment": describe("cpu"), "problems": []}
    for clusters in args.clusters:
        seconds: dict[str, list[float]] = {name: [] for name in PROVIDERS}
        inertia: dict[str, list[float]] = {name: [] for name in PROVIDERS}
        for seed in range(args.repeat):
            for name, provider in PROVIDERS.items():
                start = time.perf_counter()
                centers, labels = provider(x, clusters, seed)
                seconds[name].append(time.perf_counter() - start)
                check(name, x, centers, labels)
                distance = knn(torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(centers)), 1)[0]
                inertia[name].append(float(distance.double().square().sum()))
        base, least = (statistics.median(v["patchcore_fast, 10 iterations"]) for v in (seconds, inertia))
        print(f"{x.shape[0]:,} x {x.shape[1]}, {clusters} clusters, {args.repeat} rounds: medians (ratio to ours)")
        for name in PROVIDERS:
            s, i = statistics.median(seconds[name]), statistics.median(inertia[name])
            print(f"  {name:36s} {s:7.3f} s ({s / base:4.2f})   inertia {i:.5g} ({i / least:.4f})", flush=True)
        problem = {"n": x.shape[0], "d": x.shape[1], "clusters": clusters, "seconds": seconds, "inertia": inertia}
        result["problems"].append(problem)
    if args.json:
        records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
