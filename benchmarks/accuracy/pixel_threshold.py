"""Whether the thresholds of `fit` give the shares of false alarms and false pixels that were asked for, on real sets.

    python -m benchmarks.accuracy.pixel_threshold FOLDER [FOLDER ...] --json benchmarks/results/DEVICE/threshold.json

Folders and draws are those of `threshold.py`, the bank is that of `fit` with its default settings: a draw takes so many
normal images for training (of fewer than that and 4 half of them) and at most 60 others for the test. Shown as
means over draws: the share of test images, and of the pixels of their maps, above the thresholds for each share asked
for; beside it for pixels what the plain quantile of all held-out pixels would give.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.threshold import pool
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.decision import with_thresholds
from patchcore_fast.model.fewshot import settle
from patchcore_fast.model.fitting import choose_bank
from patchcore_fast.model.layered import scorer_of
from patchcore_fast.model.pixels import shares_above
from patchcore_fast.model.selection import Selector
from patchcore_fast.progress import bar
from patchcore_fast.scoring import anomaly_map

TESTED = 60  # normal images at most
IMAGES, PIXELS = (0.05, 0.01), (0.02, 0.01, 0.005, 0.001)  # shares asked for


def pooled_quantile(maps: torch.Tensor, share: float) -> float:
    """The value that a share of all held-out pixels exceeds, by quantiles [n, Q] of their maps: no margin."""
    low, high = float(maps.min()), float(maps.max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if shares_above(maps, middle).mean() > share else (low, middle)
    return high


def draw(config: PatchCoreConfig, images: torch.Tensor, grid: tuple[int, int], train: int, seed: int) -> dict[str, Any]:
    """Fit on `train` of images [n, P, D]; what of others lies above the thresholds, by share asked for."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    rows = FeatureRows(train)
    for image in images[order[:train]]:
        rows.add(image, grid)
    size = config.features.input_size
    assert size is not None
    rows.sizes[grid] = (size, size)
    config = config.replace(seed=seed)
    selector = Selector(config, None, torch.device("cpu"))
    bank, _ = choose_bank(
        rows, (), selector, settle(config, None, None, None)[1], images=[], weights="", progress=False
    )
    assert bank.normal_pixels is not None
    scorer, scores, maps = scorer_of(config, bank), [], []
    s = config.scoring
    for image in images[order[train : train + TESTED]]:
        score, patches = scorer(image, 1)
        scores.append(float(score))
        maps.append(anomaly_map(patches.view(1, *grid), size, s.sigma, s.upsample, s.border).flatten())
    laid = torch.stack(maps)
    found: dict[str, Any] = {"tested": len(scores), "images": {}, "pixels": {}, "pooled": {}}
    for share in IMAGES:
        limit = with_thresholds(bank, max_false_alarms=share).threshold
        found["images"][f"{share:g}"] = float(np.mean(np.array(scores) > limit))
    for share in PIXELS:
        limit = with_thresholds(bank, max_false_pixels=share).pixel_threshold
        found["pixels"][f"{share:g}"] = float((laid > limit).double().mean())
        found["pooled"][f"{share:g}"] = float((laid > pooled_quantile(bank.normal_pixels, share)).double().mean())
    return found


def measure(folder: str, config: PatchCoreConfig, trains: list[int], draws: int) -> list[dict[str, Any]]:
    """Rows of one set: a draw each."""
    normal, _ = pool(folder)
    picked = np.random.default_rng(0).permutation(len(normal))[: max(trains) + TESTED].tolist()
    rows = PatchCore(config, progress=False).training_features([normal[i] for i in picked])
    assert rows.grid is not None
    images = rows.features.view(len(picked), -1, rows.features.shape[1])
    sizes = [n for n in trains if len(images) - n >= 4] or [len(images) // 2]
    name, found = Path(folder).resolve().name, []
    with bar(draws * len(sizes), name) as shown:
        for train in sizes:
            for seed in range(draws):
                row = draw(config, images, rows.grid, train, seed)
                found.append({"set": name, "train": train, "seed": seed, **row})
                shown.update()
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what was got over what was asked for, means over draws; then the mean of all sets.

    In that each set counts once, by the mean of its numbers of training images.
    """
    wanted = [("images", f"{s:g}") for s in IMAGES] + [(k, f"{s:g}") for s in PIXELS for k in ("pixels", "pooled")]
    words = {"images": "images", "pixels": "pixels", "pooled": "without margin"}
    lines = [f"| set | training images | {' | '.join(f'{words[k]}, {100 * float(s):g} %' for k, s in wanted)} |"]
    lines.append("| --- " * (2 + len(wanted)) + "|")
    of_sets: dict[str, list[list[float]]] = {}
    for name, train in dict.fromkeys((r["set"], r["train"]) for r in rows):
        group = [r for r in rows if (r["set"], r["train"]) == (name, train)]
        means = [float(np.mean([r[k][s] for r in group])) / float(s) for k, s in wanted]
        of_sets.setdefault(name, []).append(means)
        lines.append(f"| {name} | {train} | {' | '.join(f'{m:.2f}' for m in means)} |")
    means = np.mean([np.mean(each, axis=0) for each in of_sets.values()], axis=0)
    return "\n".join([*lines, f"| mean of sets | | {' | '.join(f'{m:.2f}' for m in means)} |"])


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="DATA_FOLDER")
    parser.add_argument("--train", type=int, nargs="+", default=[20, 100], help="training images (default 20 100)")
    parser.add_argument("--draws", type=int, default=3, help="draws of training images (default 3)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    config = PatchCoreConfig(
        backbone=args.backbone, weights=args.weights, image_size=args.image_size, ratio=args.ratio, device="cpu"
    )
    rows = []
    options = {name: value for name, value in vars(args).items() if name not in ("folders", "json")}
    for folder in args.folders:
        rows += measure(folder, config, args.train, args.draws)
        if args.json:  # set by set: the run is long
            result = {"benchmark": "pixel_threshold", "environment": describe("cpu"), "options": options,
                      "config": config.to_dict(), "rows": rows}  # fmt: skip
            records.write(args.json, result)
    print(table(rows))


if __name__ == "__main__":
    main()
