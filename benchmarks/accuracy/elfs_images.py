"""How well ELFS's difficulty of images finds the defect images among the training images, beside `scores.support`.

    python -m benchmarks.accuracy.elfs_images DATA... --json benchmarks/results/DEVICE/elfs_images/lite0.json

DATA are folders in MVTec layout. Defect images in the number of 10 % of the training images are moved in. Each arm
gives an image a number, and its AUROC says how often a moved image has a larger one than a good one: `support` by the
image's deviation, `CLUSTERING SCORE` by the difficulty of a proxy that learnt pseudo-labels of the global embeddings
(`samplers.ELFSImageSampler` with its defaults), `patches SCORE` by the mean of its hardest 1 % of patches,
of a proxy that learnt 64 clusters of all patches for 4 epochs. .5 is chance; below it moved images count as easy.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import price, sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.metrics import binary_curve
from patchcore_fast.model import PatchCoreConfig
from patchcore_fast.progress import bar
from patchcore_fast.samplers import ELFSImageSampler
from patchcore_fast.samplers.elfs_images import CLUSTERINGS
from patchcore_fast.scores import k_means, support, train_proxy
from patchcore_fast.scores.dynamics import SCORES

LABELS = (*CLUSTERINGS, "patches")
ARMS = ("support", *(f"{labels} {score}" for labels in LABELS for score in (*SCORES, "mean")))


def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each seed and arm of a set."""
    config = PatchCoreConfig(backbone=args.backbone, weights=args.weights, image_size=args.image_size, device="cpu")
    truth = price.some(sets.read_truth(folder, 32), args.train, 2, 10**6)
    features = sets.extract(truth, config)
    found = []
    with bar(len(args.seeds), truth.name) as shown:
        for seed in args.seeds:
            what = sets.draw(truth, args.share, seed)
            order = torch.from_numpy(what.order)
            moved = what.order < 0
            rows, positions = sets.training_rows(features, what)
            embeddings = torch.empty(len(order), features.train_embeddings.shape[1])
            embeddings[order >= 0] = features.train_embeddings[order[order >= 0]]
            embeddings[order < 0] = features.test_embeddings[-1 - order[order < 0]]
            begun = time.perf_counter()
            scores = {"support": support(rows, positions=positions, seed=seed, progress=False).deviation}
            seconds = {"support": time.perf_counter() - begun}
            for clustering in CLUSTERINGS:
                sampler = ELFSImageSampler(0.9, clustering=clustering, seed=seed)
                begun = time.perf_counter()
                sampler.select(embeddings)
                spent = time.perf_counter() - begun
                assert sampler.dynamics_ is not None
                for score in (*SCORES, "mean"):
                    scores[f"{clustering} {score}"] = sampler.dynamics_.score(score)
                    seconds[f"{clustering} {score}"] = spent
            begun = time.perf_counter()
            clusters = k_means(rows, min(64, len(rows)), seed=seed, progress=False).labels
            dynamics = train_proxy(rows, clusters, epochs=4, seed=seed, progress=False)
            spent = time.perf_counter() - begun
            for score in (*SCORES, "mean"):
                by_image = dynamics.score(score).view(len(order), -1)
                scores[f"patches {score}"] = by_image.topk(max(1, by_image.shape[1] // 100), dim=1).values.mean(1)
                seconds[f"patches {score}"] = spent
            for arm in ARMS:
                curve = binary_curve(scores[arm].double().numpy(), moved)
                found.append({"set": truth.name, "seed": seed, "arm": arm, "images": len(moved),
                              "moved": int(moved.sum()), "auroc": curve.auroc if curve else None,
                              "seconds": seconds[arm]})  # fmt: skip
            shown.update()
    return found


def mean(rows: list[dict[str, Any]], arm: str) -> float:
    """Mean AUROC of an arm, each set counted the same; NaN without any."""
    by_set: dict[str, list[float]] = {}
    for row in rows:
        if row["arm"] == arm and row["auroc"] is not None:
            by_set.setdefault(row["set"], []).append(row["auroc"])
    return float(np.mean([np.mean(values) for values in by_set.values()])) if by_set else float("nan")


def table(result: dict[str, Any]) -> str:
    """Markdown: an arm a line, a set a column, the mean of the sets last."""
    rows = result["rows"]
    names = list(dict.fromkeys(row["set"] for row in rows))
    first = {name: next(row for row in rows if row["set"] == name) for name in names}
    heads = [f"{name} ({first[name]['moved']} of {first[name]['images']})" for name in names]
    lines = ["| | " + " | ".join([*heads, "mean"]) + " |", "|" + " --- |" * (len(names) + 2)]
    for arm in ARMS:
        values = [mean([row for row in rows if row["set"] == name], arm) for name in names]
        lines.append(f"| {arm} | " + " | ".join(f"{value:.2f}" for value in [*values, mean(rows, arm)]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--train", type=int, default=300, help="training images of a set, at most")
    parser.add_argument("--share", type=float, default=0.1, help="of them, so many defect images are moved in")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {
        "benchmark": "elfs_images", "environment": describe("cpu"), "weights": Path(args.weights).name,
        "options": {n: v for n, v in vars(args).items() if n not in ("folders", "json", "weights")},
        "rows": [row for folder in args.folders for row in measure(folder, args)],
    }  # fmt: skip
    print(table(result))
    if args.json:
        records.write(args.json, result)


if __name__ == "__main__":
    main()
