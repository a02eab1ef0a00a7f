"""What banks are worth that grow after fit: a half of the images fitted, the other half joined, against all at once.

    python -m benchmarks.accuracy.living FOLDER [FOLDER ...] --json benchmarks/results/DEVICE/living/lite0.json

A folder is in MVTec layout. A draw parts its training images in two halves. Measured on the folder's test images: the
bank of all images, of the first half, that bank after `update` by each of its rules (with as many rows as the bank of
all), and the banks of both halves after `merge`. Shown are means over draws. Nothing here is a time.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.data import ImageSet, scan
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.living import merged
from patchcore_fast.progress import bar

METRICS = ("image_auroc", "pixel_auroc")
ARMS = ("of all images at once", "of the first half", "`update`", "`update --add`, as many rows as at once",
        "`update --size`, as many", "`merge` of both halves", "`merge --size`, as the first half")  # fmt: skip


def banks(config: PatchCoreConfig, images: list[Any]) -> Iterator[PatchCore]:
    """A model for each of ARMS."""

    def fitted(part: list[Any]) -> PatchCore:
        return PatchCore(config, progress=False).fit(part)

    def grown(**growth: int) -> PatchCore:
        model = copy.copy(first)
        model.update(second_images, **growth)
        return model

    def joined(size: int | None) -> PatchCore:
        model = copy.copy(first)
        model._bank, model._scorer = merged([first.bank, second.bank], size, model.device), None
        return model

    second_images = images[len(images) // 2 :]
    whole, first = fitted(images), fitted(images[: len(images) // 2])
    rows = len(whole.bank)
    yield from (whole, first, grown(), grown(add=rows - len(first.bank)), grown(size=rows))
    second = fitted(second_images)
    yield from (joined(None), joined(len(first.bank)))


def measure(folder: str, config: PatchCoreConfig, draws: int) -> list[dict[str, Any]]:
    """A row for each draw and arm: size and radius of the bank, metrics, false alarms among normal test images."""
    found: ImageSet = scan(folder)
    name, rows = Path(folder).resolve().name, []
    with bar(draws * len(ARMS), name) as shown:
        for seed in range(draws):
            order = np.random.default_rng(seed).permutation(len(found.train)).tolist()
            for arm, model in zip(ARMS, banks(config, [found.train[i] for i in order]), strict=True):
                metrics = model.evaluate(found).metrics
                normal = metrics["false_positives"] + metrics["true_negatives"]
                rows.append({
                    "set": name, "seed": seed, "arm": arm, "bank": len(model.bank), "radius": model.bank.radius,
                    "false_alarms": None if model.threshold is None else float(metrics["false_positives"] / normal),
                    **{metric: float(metrics[metric]) for metric in METRICS},
                })  # fmt: skip
                shown.update()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over draws, and by how much a draw falls at most behind its bank of all images at once."""
    lines = ["| set | bank | rows | image AUROC | pixel AUROC | largest loss of image AUROC in a draw | false alarms |",
             "| --- " * 7 + "|"]  # fmt: skip
    for name in dict.fromkeys(r["set"] for r in rows):
        own = [r for r in rows if r["set"] == name]
        whole = [r["image_auroc"] for r in own if r["arm"] == ARMS[0]]
        for arm in ARMS:
            group = [r for r in own if r["arm"] == arm]
            mean = {key: np.mean([r[key] for r in group]) for key in ("bank", *METRICS)}
            loss = max(all_ - r["image_auroc"] for all_, r in zip(whole, group, strict=True))
            alarms = [r["false_alarms"] for r in group]
            share = "no threshold" if None in alarms else f"{np.mean(alarms):.3f}"
            lines.append(f"| {name} | {arm} | {mean['bank']:,.0f} | {mean['image_auroc']:.4f} "
                         f"| {mean['pixel_auroc']:.4f} | {loss:.4f} | {share} |")  # fmt: skip
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="DATA_FOLDER")
    parser.add_argument("--draws", type=int, default=3, help="partings of the training images (default 3)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    config = PatchCoreConfig(
        backbone=args.backbone,
        weights=args.weights,
        image_size=args.image_size,
        ratio=args.ratio,
        device="cpu",
        **sets.NEAREST,
    )
    rows = [row for folder in args.folders for row in measure(folder, config, args.draws)]
    print(table(rows))
    if args.json:
        options = {name: value for name, value in vars(args).items() if name not in ("folders", "json")}
        result = {"benchmark": "living", "environment": describe("cpu"), "options": options,
                  "config": config.to_dict(), "rows": rows}  # fmt: skip
        records.write(args.json, result)


if __name__ == "__main__":
    main()
