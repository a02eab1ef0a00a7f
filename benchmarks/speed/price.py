"""What the price of unsupported rows costs beside the selection, in one run, and beside the whole fit.

    python -m benchmarks.speed.price DATA --json benchmarks/results/DEVICE/price/cost.json

DATA is a folder in MVTec layout; its training features are extracted once. For each --ratio the selection (exact
greedy as `fit` makes it, projection included) and the support of its rows are timed in turn, --repeat times; medians.
First the distances of some rows are held against float64 brute force.
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
from patchcore_fast.model.selection import Selector

CHECKED = 16  # rows


def right(rows: FeatureRows, indices: torch.Tensor, support: torch.Tensor) -> bool:
    """Whether no other image has a row that is nearer by more than the projection can hide, for some rows.

    The nearest row is looked for after a projection, so a nearer one may be missed by it, but none far nearer.
    """
    image = rows.positions(torch.arange(rows.total))[:, 0]
    for i in range(0, len(indices), max(1, len(indices) // CHECKED)):
        x = rows.features[indices[i]].double()
        others = rows.features[image != image[indices[i]]].double()
        nearest = float((others - x).square().sum(dim=1).min().sqrt())
        if not nearest * (1 - 1e-6) <= float(support[i]) <= 1.5 * nearest:
            return False
    return True


def measure(rows: FeatureRows, ratio: float, repeat: int) -> dict[str, Any]:
    """Medians of both, and their ratio."""
    config, device = PatchCoreConfig(ratio=ratio, device="cpu"), torch.device("cpu")
    seconds: dict[str, list[float]] = {"selection": [], "price": []}
    ok = True
    for number in range(repeat + 1):  # the first is warm-up
        selector = Selector(config, None, device)
        begun = time.perf_counter()
        indices = selector.select(rows).indices
        chosen = time.perf_counter()
        support = selector.support(rows, indices)
        ended = time.perf_counter()
        assert support is not None
        if number == 0:
            ok = right(rows, indices, support)
            continue
        seconds["selection"].append(chosen - begun)
        seconds["price"].append(ended - chosen)
    shares = [p / s for s, p in zip(seconds["selection"], seconds["price"], strict=True)]
    return {
        "patches": rows.total, "columns": rows.columns, "bank": len(indices), "right": ok,
        "selection_s": float(np.median(seconds["selection"])), "price_s": float(np.median(seconds["price"])),
        "share": float(np.median(shares)),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| bank | selection | price | price / selection |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {r['bank']:,} of {r['patches']:,} x {r['columns']} | {r['selection_s']:.2f} s | {r['price_s']:.2f} s | "
        + (f"{r['share']:.2f} |" if r["right"] else "WRONG |")
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
    rows = [measure(features, ratio, args.repeat) for ratio in args.ratio]
    print(table(rows))
    if args.json:
        options = {n: v for n, v in vars(args).items() if n not in ("folder", "json", "weights")}
        result = {"benchmark": "price cost", "environment": describe("cpu"), "set": args.folder.resolve().name,
                  "options": options, "rows": rows}  # fmt: skip
        records.write(args.json, result)


if __name__ == "__main__":
    main()
