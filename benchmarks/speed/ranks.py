"""Several ranks beside one process on this machine: the same picks, the time, and what they exchange; a cost model.

    python -m benchmarks.speed.ranks --quick
    python -m benchmarks.speed.ranks --json out.json

One process with two threads and two ranks with one each select the same rows, interleaved; picks must be equal before a
time stands. The model of docs/scale.md is then fitted to some of the runs and predicts the others.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.harness import records
from benchmarks.harness.cases import CASES
from benchmarks.harness.environment import describe
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.ranks import Ranks


@dataclass(frozen=True)
class Work:
    """A selection: features, how many are picked, on how many ranks of one thread; 0: one process of two threads."""

    case: str
    n: int
    d: int
    share: float
    ranks: int
    fitted: bool = True  # whether the model may know it

    @property
    def k(self) -> int:
        """Picks."""
        return int(self.n * self.share)


RUNS = (
    Work("photos", 156_800, 128, 0.01, 2), Work("photos", 156_800, 128, 0.1, 2), Work("photos", 78_400, 128, 0.1, 2),
    Work("photos", 156_800, 128, 0.1, 1), Work("photos", 39_200, 128, 0.1, 1), Work("photos", 156_800, 128, 0.02, 1),
    Work("photos", 117_600, 128, 0.05, 2, fitted=False), Work("photos", 120_000, 128, 0.08, 1, fitted=False),
)  # fmt: skip
QUICK = (Work("clustered", 8_000, 32, 0.1, 2), Work("clustered", 6_000, 32, 0.1, 1),
         Work("clustered", 7_000, 32, 0.1, 2, fitted=False))  # fmt: skip


def rows_of(work: Work, seed: int) -> torch.Tensor:
    """The features [N, D]."""
    out, made = [], 0
    for part in CASES[work.case].parts(work.n, work.d, seed):
        out.append(np.asarray(part, np.float32))
        made += len(part)
        if made >= work.n:
            break
    return torch.from_numpy(np.concatenate(out)[: work.n])


def _rank(rank: int, size: int, store: str, pipe: Connection) -> None:
    """One rank: selects whenever it is sent its rows."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    kept: list[Ranks] = []
    begin = Ranks.__init__

    def remember(ranks: Ranks, *arguments: Any) -> None:
        begin(ranks, *arguments)
        kept.append(ranks)

    Ranks.__init__ = remember  # type: ignore[method-assign]
    while (task := pipe.recv()) is not None:
        rows, k = torch.from_numpy(task[0]), task[1]
        dist.barrier()
        started = time.perf_counter()
        found = k_center_greedy(rows, k, group=dist.group.WORLD)
        seconds = time.perf_counter() - started
        last = kept.pop()
        kept.clear()
        pipe.send({"seconds": seconds, "indices": found.indices.numpy(), "passes": found.passes,
                   "distances": found.distances, "sent": last.sent, "exchange_s": last.seconds})  # fmt: skip
    dist.destroy_process_group()


class Group:
    """`size` processes on this machine."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name, "store"))
        self.pipes, self._processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            self._processes.append(context.Process(target=_rank, args=(rank, size, store, there), daemon=True))
            self._processes[-1].start()
            self.pipes.append(here)

    def select(self, x: torch.Tensor, k: int) -> list[dict[str, Any]]:
        """What each rank says of it."""
        size = len(self.pipes)
        for rank, pipe in enumerate(self.pipes):
            pipe.send((x[len(x) * rank // size : len(x) * (rank + 1) // size].numpy(), k))
        return [pipe.recv() for pipe in self.pipes]

    def close(self) -> None:
        """End them."""
        for pipe, process in zip(self.pipes, self._processes, strict=True):
            pipe.send(None)
            process.join(20)
        self._folder.cleanup()


def measure(work: Work, groups: dict[int, Group], repeat: int, seed: int) -> dict[str, Any]:
    """Medians of interleaved runs."""
    x = rows_of(work, seed)
    alone: list[float] = []
    together: list[list[dict[str, Any]]] = []
    for _ in range(repeat):
        started = time.perf_counter()
        found = k_center_greedy(x, work.k)
        alone.append(time.perf_counter() - started)
        together.append(groups[work.ranks].select(x, work.k))
        for told in together[-1]:
            if not np.array_equal(told.pop("indices"), found.indices.numpy()):
                raise SystemExit(f"{work}: ranks pick other rows than one process")
    first = together[0][0]
    seconds = statistics.median(max(told["seconds"] for told in run) for run in together)
    return {
        "case": work.case, "n": work.n, "d": work.d, "k": work.k, "ranks": work.ranks, "fitted": work.fitted,
        "one_process_s": statistics.median(alone), "median_s": seconds, "runs": repeat,
        "passes": first["passes"], "share_of_distances": first["distances"] / (work.n * work.k),
        "bytes_a_pass": first["sent"] / max(1, first["passes"]),
        "exchange_s": statistics.median(max(told["exchange_s"] for told in run) for run in together),
    }  # fmt: skip


def terms(run: dict[str, Any]) -> list[float]:
    """What docs/scale.md says that a run consists of: products of the shard, products of resolving, passes, bytes."""
    products = run["share_of_distances"] * run["n"] * run["k"] * run["d"] / run["ranks"]
    candidates = run["bytes_a_pass"] * run["ranks"] / (4 * run["d"])  # the rows are nearly all of it
    return [products, candidates * run["k"] * run["d"], run["passes"], run["bytes_a_pass"] * run["passes"]]


def predict(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Costs of the terms from the runs that may be known, and what they say of the others."""
    from scipy.optimize import nnls

    known = [run for run in runs if run["fitted"]]
    weight = np.array([1 / run["median_s"] for run in known])  # errors count in proportion
    table = np.array([terms(run) for run in known])
    scale = table.max(0)
    costs, _ = nnls(table / scale * weight[:, None], np.ones(len(known)))
    costs = costs / scale
    for run in runs:
        run["predicted_s"] = float(np.dot(terms(run), costs))
    names = ("a_product", "a_resolving_product", "a_pass", "a_byte")
    return {f"seconds_{name}": float(cost) for name, cost in zip(names, costs, strict=True)}


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown for docs/scale.md: what was measured, and the model's own for the runs that it did not know."""
    lines = ["| rows | picks | ranks of one thread | seconds | of one process with two threads | passes | "
             "MB a pass and rank | in exchanges | the model |", "|" + "---|" * 9]  # fmt: skip
    for run in runs:
        said = f"{run['predicted_s']:.2f} s" + (", fitted" if run["fitted"] else "")
        lines.append(
            f"| {run['n']:,} | {run['k']:,} | {run['ranks']} | {run['median_s']:.2f} | "
            f"{run['median_s'] / run['one_process_s']:.2f} | {run['passes']} | {run['bytes_a_pass'] / 1e6:.1f} | "
            f"{run['exchange_s']:.2f} s | {said} |"
        )
    return "\n".join(lines)


def on_paper(costs: dict[str, float]) -> str:
    """Markdown for docs/scale.md: the costs on more rows than fit here; see there for what is assumed."""
    picks, columns, passes = 100_000, 128, 100
    lines = ["| rows | ranks | memory of a rank | comparing | passes' own |", "|---|---|---|---|---|"]
    for exponent, size in ((8, 8), (8, 64), (8, 1024), (9, 64), (9, 1024)):
        rows = 10**exponent / size
        memory = (rows * (4 * columns + 56) + 4 * picks * columns) / 1e9
        comparing = 0.3 * rows * picks * columns * costs["seconds_a_product"]
        said = f"{comparing / 60:.0f} min" if comparing >= 90 else f"{comparing:.0f} s"
        lines.append(
            f"| 10^{exponent} | {size:,} | {memory:.1f} GB | {said} | {passes * costs['seconds_a_pass']:.0f} s |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, in seconds")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    works = QUICK if args.quick else RUNS
    groups = {size: Group(size) for size in sorted({work.ranks for work in works})}
    try:
        runs = [measure(work, groups, args.repeat, args.seed) for work in works]
    finally:
        for group in groups.values():
            group.close()
    costs = predict(runs)
    for run in runs:
        ratio = run["median_s"] / run["one_process_s"]
        print(
            f"{run['case']} {run['n']:,} x {run['d']}, {run['k']:,} picks, {run['ranks']} rank(s): "
            f"{run['median_s']:.2f} s, {ratio:.2f} of one process; {run['passes']} passes, "
            f"{run['bytes_a_pass'] / 1e6:.2f} MB a pass and rank, {run['exchange_s']:.2f} s in exchanges; "
            f"the model says {run['predicted_s']:.2f} s{'' if run['fitted'] else ' (did not know it)'}"
        )
    print(", ".join(f"{name} {cost:.3g}" for name, cost in costs.items()))
    if args.json:
        result = {"benchmark": "ranks", "environment": describe("cpu"), "options": {"repeat": args.repeat},
                  "costs": costs, "runs": runs}  # fmt: skip
        records.write(args.json, result, schema=None)


if __name__ == "__main__":
    main()
