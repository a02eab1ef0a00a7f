"""What the price of unsupported rows costs beside the selection, in one run, and beside the whole fit.

    python -m benchmarks.speed.price DATA --json benchmarks/results/DEVICE/price/cost.json

DATA is a folder in MVTec layout; its training features are extracted once. For each --ratio the selection (exact
greedy as `fit` makes it, projection included) and the support of its rows, looked for among all rows and among those
that `fit` looks among, are timed in turn, --repeat times; medians, of the process's processor seconds, which other
programs disturb less, and by the clock. First the distances of some rows are held against float64 brute force.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.pricing import every_of
from patchcore_fast.model.selection import Selector
from patchcore_fast.scores.foreign import thinned

CHECKED = 16  # rows


def right(rows: FeatureRows, indices: torch.Tensor, support: torch.Tensor, every: int) -> bool:
    """Whether no other image has a row, of those looked among, that is nearer by more than the projection can hide.

    For some rows. The nearest row is looked for after a projection: it may miss a nearer one, but none far nearer.
    """
    image = rows.positions(torch.arange(rows.total))[:, 0].long()
    among = thinned(torch.arange(rows.total), image, every)
    for i in range(0, len(indices), max(1, len(indices) // CHECKED)):
        x = rows.features[indices[i]].double()
        others = rows.features[among & (image != image[indices[i]])].double()
        nearest = float((others - x).square().sum(dim=1).min().sqrt())
        if not nearest * (1 - 1e-6) <= float(support[i]) <= 1.5 * nearest:
            return False
    return True


def measure(rows: FeatureRows, ratio: float, repeat: int) -> list[dict[str, Any]]:
    """For all rows, and for those that are looked among: medians of selection and price, and their ratio."""
    config, device = PatchCoreConfig(ratio=ratio, device="cpu"), torch.device("cpu")
    among = tuple(dict.fromkeys((1, every_of(rows.total))))
    taken: dict[int | None, list[tuple[float, float]]] = {None: [], **{every: [] for every in among}}
    ok: dict[int, bool] = {}
    for number in range(repeat + 1):  # the first is warm-up
        selector = Selector(config, None, device)
        clock = _now()
        indices = selector.select(rows).indices
        times: dict[int | None, tuple[float, float]] = {None: _since(clock)}
        for every in among:
            clock = _now()
            support = selector.support(rows, indices, every=every)
            times[every] = _since(clock)
            assert support is not None
            if number == 0:
                ok[every] = right(rows, indices, support, every)
        for what, seconds in times.items():
            taken[what] += [seconds] * (number > 0)
    found = []
    for every in among:
        one: dict[str, Any] = {"patches": rows.total, "columns": rows.columns, "bank": len(indices), "every": every,
                               "right": ok[every]}  # fmt: skip
        for i, kind in enumerate(("cpu", "clock")):
            selection, price = (np.array([pair[i] for pair in taken[what]]) for what in (None, every))
            one |= {f"selection_{kind}_s": float(np.median(selection)), f"price_{kind}_s": float(np.median(price)),
                    f"share_{kind}": float(np.median(price / selection))}  # fmt: skip
        found.append(one)
    return found


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def _since(begun: tuple[float, float]) -> tuple[float, float]:
    now = _now()
    return now[0] - begun[0], now[1] - begun[1]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| bank | looked among | selection, CPU | price, CPU | price / selection | by the clock |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    lines += [
        f"| {r['bank']:,} of {r['patches']:,} x {r['columns']} | "
        + ("all" if r["every"] == 1 else f"1 of {r['every']}")
        + f" | {r['selection_cpu_s']:.2f} s | {r['price_cpu_s']:.2f} s | "
        + (f"{r['share_cpu']:.2f} | {r['share_clock']:.2f} |" if r["right"] else "WRONG | |")
        for r in rows
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DATA")
    parser.add_argument("--shots", type=int, help="training images, drawn; all when left out")
    parser.add_argument("--ratio", nargs="+", type=float, default=[0.01, 0.1])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    config = PatchCoreConfig(weights=args.weights, device="cpu", shots=args.shots)
    features = PatchCore(config, progress=False).training_features(args.folder)
    rows = [one for ratio in args.ratio for one in measure(features, ratio, args.repeat)]
    print(table(rows))
    if args.json:
        options = {n: v for n, v in vars(args).items() if n not in ("folder", "json", "weights")}
        result = {"benchmark": "price cost", "environment": describe("cpu"), "set": args.folder.resolve().name,
                  "options": options, "rows": rows}  # fmt: skip
        records.write(args.json, result)


if __name__ == "__main__":
    main()
