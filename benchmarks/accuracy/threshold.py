"""Whether the threshold of `fit` gives the false alarms that were asked for: real sets, many draws of training images.

    python -m benchmarks.accuracy.threshold FOLDER [FOLDER ...] --json benchmarks/results/DEVICE/threshold.json

A folder is in MVTec layout. Its normal images (train/good and test/good) are pooled; a draw takes so many of them for
training, and at most 80 others and 80 defective ones for the test. Shown for each set and number of training images, as
means over draws, at the threshold of `fit` and at the older one (each image against the bank without its own rows, the
0.95 quantile of these scores): the share of normal images called anomalous, and of defective images found; beside them
what is found where exactly the share asked for of the test's normal images lies above the threshold.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.data import ImageRecord, scan
from patchcore_fast.kernels import knn
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.score import ImageScorer
from patchcore_fast.model.selection import Selector
from patchcore_fast.model.threshold import false_alarm_threshold
from patchcore_fast.progress import bar

TESTED = 80  # images of each kind at most
FEWEST = 40  # normal test images that a draw must leave


def pool(folder: str) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Normal and defective images of a folder, without labels of their own."""
    found = scan(folder)
    normal = [*found.train, *(r for r in found.test if r.label == 0)]
    defective = [r for r in found.test if r.label == 1]
    return [ImageRecord(r.path) for r in normal], [ImageRecord(r.path) for r in defective]


def image_scores(config: PatchCoreConfig, images: torch.Tensor, bank: torch.Tensor) -> np.ndarray:
    """Scores [n] of images [n, P, D] by a bank [M, D]."""
    scorer = ImageScorer(config, bank)
    parts = [scorer(block.flatten(0, 1), len(block), bank)[0] for block in images.split(16)]
    return torch.cat(parts).double().numpy()


def without_own_rows(images: torch.Tensor, bank: torch.Tensor, owners: torch.Tensor) -> float:
    """The threshold of before: largest distances of up to 64 images to the bank without their rows, 0.95 quantile."""
    scores = []
    for i in torch.linspace(0, len(images) - 1, min(64, len(images))).round().long().unique().tolist():
        scores.append(float(knn(images[i], bank[owners != i], 1)[0].max()))
    return float(np.quantile(scores, 0.95, method="higher"))


def draw(config: PatchCoreConfig, normal: torch.Tensor, bad: torch.Tensor, grid: Any, train: int, seed: int) -> Any:
    """One draw: rates at both thresholds, and what could be found at the share of false alarms asked for."""
    order = torch.randperm(len(normal), generator=torch.Generator().manual_seed(seed))
    chosen, tested = normal[order[:train]], normal[order[train : train + TESTED]]
    rows = FeatureRows(train)
    for image in chosen:
        rows.add(image, grid)
    selector = Selector(config, None, torch.device("cpu"))
    indices = selector.select(rows).indices
    bank, owners = rows.features[indices], rows.positions(indices)[:, 0]
    good, found = (image_scores(config, images, bank) for images in (tested, bad))
    new = false_alarm_threshold(selector.held_out_scores(rows), config.max_false_alarms)
    assert new is not None
    thresholds = {"now": new, "before": without_own_rows(chosen, bank, owners)}
    at = np.sort(good)[::-1][int(config.max_false_alarms * len(good))]
    rates = {name: ((good > t).mean(), (found > t).mean()) for name, t in thresholds.items()}
    return {"reachable": float((found > at).mean())} | {
        name: {"false_alarms": float(a), "found": float(b)} for name, (a, b) in rates.items()
    }


def measure(folder: str, config: PatchCoreConfig, trains: list[int], draws: int) -> list[dict[str, Any]]:
    """Rows of one set: a draw each."""
    normal, defective = pool(folder)
    model = PatchCore(config, progress=False)
    limit = max(trains) + TESTED
    picked = np.random.default_rng(0).permutation(len(normal))[:limit].tolist()
    parts = []
    for images in ([normal[i] for i in picked], defective[:TESTED]):
        rows = model.training_features(images)
        assert rows.grid is not None
        parts.append(rows.features.view(len(images), -1, rows.features.shape[1]))
    found = []
    with bar(draws * len(trains), Path(folder).resolve().name) as shown:
        for train in trains:
            for seed in range(draws):
                if len(parts[0]) - train >= FEWEST:
                    found.append({"set": Path(folder).resolve().name, "train": train, "seed": seed,
                                  **draw(config, parts[0], parts[1], rows.grid, train, seed)})  # fmt: skip
                shown.update()
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over draws; silent draws find nothing where the share asked for would find some."""
    lines = ["| set | training images | false alarms, before | now | found, before | now | found at the share "
             "asked for | silent draws, before | now |", "| --- " * 9 + "|"]  # fmt: skip
    trains = sorted({r["train"] for r in rows})
    for name in [*dict.fromkeys(r["set"] for r in rows), "mean of sets"]:
        for train in trains:
            groups = [[r for r in rows if r["train"] == train and r["set"] == s]
                      for s in dict.fromkeys(r["set"] for r in rows) if name in (s, "mean of sets")]  # fmt: skip
            groups = [g for g in groups if g]
            if not groups:
                continue

            def mean(key: str, which: str, groups: list[Any] = groups) -> float:
                return float(np.mean([np.mean([r[which][key] for r in g]) for g in groups]))

            reach = np.mean([np.mean([r["reachable"] for r in g]) for g in groups])
            silent = [sum(r[w]["found"] == 0 < r["reachable"] for g in groups for r in g) for w in ("before", "now")]
            lines.append(
                f"| {name} | {train} | {mean('false_alarms', 'before'):.3f} | {mean('false_alarms', 'now'):.3f} "
                f"| {mean('found', 'before'):.2f} | {mean('found', 'now'):.2f} | {reach:.2f} "
                f"| {silent[0]} | {silent[1]} |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="DATA_FOLDER")
    parser.add_argument(
        "--train", type=int, nargs="+", default=[20, 50, 150], help="training images (default 20 50 150)"
    )
    parser.add_argument("--draws", type=int, default=5, help="draws of training images (default 5)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--max-false-alarms", type=float, default=0.05)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    config = PatchCoreConfig(
        backbone=args.backbone, weights=args.weights, image_size=args.image_size, ratio=args.ratio,
        max_false_alarms=args.max_false_alarms, device="cpu", **sets.NEAREST,
    )  # fmt: skip
    rows = [row for folder in args.folders for row in measure(folder, config, args.train, args.draws)]
    print(table(rows))
    if args.json:
        options = {name: value for name, value in vars(args).items() if name not in ("folders", "json")}
        result = {"benchmark": "threshold", "environment": describe("cpu"), "options": options,
                  "config": config.to_dict(), "rows": rows}  # fmt: skip
        records.write(args.json, result)


if __name__ == "__main__":
    main()
