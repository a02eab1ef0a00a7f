"""Which share of defect images among the training images a person finds who looks at the most suspicious ones.

    python -m benchmarks.accuracy.audit DATA... --holdout NEW... --json benchmarks/results/DEVICE/audit/lite0.json

DATA are folders in MVTec layout, NEW those that had no part in the choice of the ranking. Of each at most 60 training
images are drawn once, and as many defect images as 10 % of them are moved in. Compared are the order by
`scores.support` alone and that of `scores.suspicion`, which `patchcore-fast audit` shows; chance is the mean of all
orders.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import price, sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.progress import bar
from patchcore_fast.scores import suspicion

ARMS = ("support", "suspicion")


def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each seed and arm of a set."""
    config = PatchCoreConfig(backbone=args.backbone, weights=args.weights, image_size=args.image_size, device="cpu")
    truth = price.some(sets.read_truth(folder, 32), args.train, 2, 10**6)
    features = sets.extract(truth, config)
    rows_found = []
    with bar(len(args.seeds), truth.name) as shown:
        for seed in args.seeds:
            what = sets.draw(truth, args.share, seed)
            rows, positions = sets.training_rows(features, what)
            moved = np.flatnonzero(what.order < 0)
            ranked = suspicion(rows, positions=positions, seed=seed, progress=False)
            orders = {"support": ranked.parts["support"].argsort(descending=True), "suspicion": ranked.order}
            for arm in ARMS:
                seen = np.intersect1d(orders[arm][: args.top].numpy(), moved)
                rows_found.append({"set": truth.name, "seed": seed, "arm": arm, "images": len(what.order),
                              "moved": len(moved), "looked_at": min(args.top, len(what.order)),
                              "found": len(seen)})  # fmt: skip
            shown.update()
    return rows_found


def share(rows: list[dict[str, Any]], arm: str) -> float:
    """Of all moved images those that are found, each set counted the same."""
    by_set: dict[str, list[float]] = {}
    for row in rows:
        if row["arm"] == arm and row["moved"]:
            by_set.setdefault(row["set"], []).append(row["found"] / row["moved"])
    return float(np.mean([np.mean(values) for values in by_set.values()]))


def found(result: dict[str, Any]) -> dict[str, float]:
    """What the page of an audit says of it: sets, images at most, and shares, of all sets."""
    rows = [*result["rows"], *result["holdout"]]
    names = dict.fromkeys(row["set"] for row in rows)
    shares = [share([row for row in rows if row["set"] == name], "suspicion") for name in names]
    chances = [np.mean([r["looked_at"] / r["images"] for r in rows if r["set"] == name]) for name in names]
    return {"sets": len(names), "images": max(row["images"] for row in rows), "share": float(np.mean(shares)),
            "worst": min(shares), "best": max(shares), "chance": float(np.mean(chances))}  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown: share of moved images found by set; means of the sets that the ranking was chosen on, and of new."""
    lines = ["| set | moved, of images | by chance | support alone | audit |", "|" + " --- |" * 5]
    for part, name in (("rows", "mean"), ("holdout", "mean of new sets")):
        rows = result[part]
        for own in ([r for r in rows if r["set"] == one] for one in dict.fromkeys(r["set"] for r in rows)):
            first, new = own[0], " (new)" * (part == "holdout")
            lines.append(_line(f"{first['set']}{new}", f"{first['moved']} of {first['images']}", own))
        if rows:
            lines.append(_line(f"**{name}**", "", rows))
    return "\n".join(lines)


def _line(name: str, moved: str, rows: list[dict[str, Any]]) -> str:
    chance = float(np.mean([r["looked_at"] / r["images"] for r in rows]))
    return "| " + " | ".join([name, moved, f"{chance:.2f}", *(f"{share(rows, arm):.2f}" for arm in ARMS)]) + " |"


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DATA")
    parser.add_argument("--holdout", nargs="+", type=Path, default=[], metavar="NEW")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, help="the backbone's default when left out")
    parser.add_argument("--train", type=int, default=60, help="training images of a set, at most")
    parser.add_argument("--share", type=float, default=0.1, help="of them, so many defect images are moved in")
    parser.add_argument("--top", type=int, default=20, help="images that are looked at")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if not args.folders and not args.holdout:
        parser.error("at least one folder in MVTec layout is wanted")
    result: dict[str, Any] = {
        "benchmark": "audit", "environment": describe("cpu"), "weights": Path(args.weights).name,
        "options": {n: v for n, v in vars(args).items() if n not in ("folders", "holdout", "json", "weights")},
        "rows": [row for folder in args.folders for row in measure(folder, args)],
        "holdout": [row for folder in args.holdout for row in measure(folder, args)],
    }  # fmt: skip
    print(table(result))
    if args.json:
        records.write(args.json, result)


if __name__ == "__main__":
    main()
