"""What a setting is worth: backbones, a bank for each layer, no training images at all; accuracy, time, memory.

    python -m benchmarks.accuracy.settings backbones DATA... --vit FILE --json benchmarks/results/DEVICE/settings/backbones.json
    python -m benchmarks.accuracy.settings layers DATA... --json benchmarks/results/DEVICE/settings/layers.json
    python -m benchmarks.accuracy.settings zeroshot DATA... --json benchmarks/results/DEVICE/settings/zeroshot.json

DATA are folders in MVTec AD's layout; the result is the table of docs/backbones.md, docs/layers.md or docs/zeroshot.md.
Each setting is a PatchCoreConfig with a 1 % bank, fitted on the same --max-train training images and measured by
`evaluate` on all test images, once and with one seed. Seconds of `backbones` and `layers` are the median over --timed
test images, each predicted alone from memory by one setting after the other; those of `zeroshot`, which scores all
images at once, are of the reading too, the median of --runs, and divided by the number of images.
"""  # noqa: E501

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import sets
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.data import ImageRecord, ImageSet, load_image, scan
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.results import Evaluation
from patchcore_fast.progress import bar
from patchcore_fast.zeroshot import ZeroShot

VIT, MAX, TOP = "vit_small_patch14_dinov2", "max", "top:0.01"
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO"}
# Of the ViT, asked for by --variants: (what is set, by which image scores it is measured).
VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "3 x 3 averaging": ({"patch_size": 3}, (MAX,)),
    "cosine": ({"metric": "cosine"}, (MAX, TOP)),
    "PCA to 128": ({"reduction": "pca", "dim": 128}, (MAX,)),
    "whitened to 128": ({"reduction": "whiten", "dim": 128}, (MAX,)),
    "blocks 3, 5, 8, 11": ({"layers": (3, 5, 8, 11)}, (MAX,)),
    "block 11, cosine": ({"layers": (11,), "metric": "cosine"}, (TOP,)),
}


@dataclass(frozen=True)
class Arm:
    """A setting by its name, and the image scores that it is measured with."""

    name: str
    config: PatchCoreConfig
    scores: tuple[str, ...] = (MAX,)


def backbones(args: argparse.Namespace) -> list[Arm]:
    """The default backbone, and a ViT at each size."""
    lite = PatchCoreConfig(weights=args.weights, device="cpu", **sets.NEAREST)
    arms = [Arm(f"Lite0, {lite.image_size} px", lite, (MAX, TOP))]
    for size in args.image_size:
        vit = PatchCoreConfig(backbone=VIT, weights=args.vit, image_size=size, device="cpu", **sets.NEAREST)
        name = f"ViT-S/14, {vit.image_size} px"
        arms.append(Arm(name, vit, (MAX, TOP)))
        if args.variants:
            arms += [Arm(f"{name}, {what}", vit.replace(**given), scores) for what, (given, scores) in VARIANTS.items()]
    return arms


def layers(args: argparse.Namespace) -> list[Arm]:
    """One bank or one for each layer, by either metric."""
    lite = PatchCoreConfig(weights=args.weights, device="cpu", **sets.NEAREST)
    return [Arm(f"{banks}, {metric}", lite.replace(banks=banks, metric=metric))
            for metric in ("euclidean", "cosine") for banks in ("joint", "layer")]  # fmt: skip


def measure(folder: Path, arms: Sequence[Arm], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each arm and image score."""
    images = scan(folder)
    rows, models = [], []
    with bar(sum(len(arm.scores) for arm in arms), folder.resolve().name) as shown:
        for arm in arms:
            fitted = fit(images, arm.config, args.max_train)
            for score in arm.scores:
                model = copy.copy(fitted)
                model.rescore(image_score=score)
                rows.append(row(images, arm.name, model.evaluate(images), model, score))
                models.append(model)
                shown.update()
    for one, seconds in zip(rows, alone(models, images.test[: args.timed]), strict=True):
        one["seconds"] = seconds
    return rows


def unlabelled(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of images that score each other, and of a bank that saw training images."""
    images = scan(folder)
    config = PatchCoreConfig(weights=args.weights, device="cpu", **sets.NEAREST)
    model = fit(images, config, args.max_train)
    arms: dict[str, ZeroShot | PatchCore] = {"zero-shot": ZeroShot(config, progress=False), "PatchCore": model}
    found: dict[str, Evaluation] = {}
    taken: dict[str, list[float]] = {name: [] for name in arms}
    with bar(args.runs * len(arms), folder.resolve().name) as shown:
        for _ in range(args.runs):
            for name, arm in arms.items():
                clock = time.perf_counter()
                found[name] = arm.evaluate(images)
                taken[name].append(time.perf_counter() - clock - found[name].timings["metrics"])
                shown.update()
    return [
        row(images, name, found[name], model if arm is model else None, MAX)
        | {"seconds": float(np.median(taken[name])) / len(images.test)}
        for name, arm in arms.items()
    ]


def fit(images: ImageSet, config: PatchCoreConfig, most: int) -> PatchCore:
    """On `most` training images, drawn by the config's seed, or on all where there are no more."""
    return PatchCore(config, progress=False).fit(images, shots=most if len(images.train) > most else None)


def row(images: ImageSet, arm: str, found: Evaluation, model: PatchCore | None, score: str) -> dict[str, Any]:
    """What was measured, without its time; a metric that the set cannot have is None."""
    values = {name: float(found.metrics[name]) for name in METRICS}
    return {
        "set": images.root.resolve().name, "train": 0 if model is None else len(model.bank.images),
        "test": len(images.test), "anomalous": sum(r.label == 1 for r in images.test), "arm": arm, "image_score": score,
        **{name: value if math.isfinite(value) else None for name, value in values.items()},
        "bank_bytes": 0 if model is None else sum(part.features.nbytes for part in model.bank.parts),
    }  # fmt: skip


def alone(models: Sequence[PatchCore], tested: Sequence[ImageRecord]) -> list[float]:
    """Seconds of a prediction, the median over images for each model; models take turns, so that what slows the machine
    for a while hits them all."""
    taken: list[list[float]] = [[] for _ in models]
    for number, record in enumerate([tested[0], *tested]):
        for model, times in zip(models, taken, strict=True):
            image = load_image(record.path, model.config.resize, model.config.crop)[None]
            clock = time.perf_counter()
            model.predict(image)
            if number:  # the first one wakes threads and allocators
                times.append(time.perf_counter() - clock)
    return [float(np.median(times)) for times in taken]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each row."""
    heads = ["set", "training images", "test images, anomalous", "setting", "image score", *METRICS.values(),
             "s an image", "bank, MB"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for r in rows:
        values = ["" if r[name] is None else f"{r[name]:.3f}" for name in METRICS]
        size = f"{r['bank_bytes'] / 1e6:.2f}" if r["bank_bytes"] else "none"
        lines.append("| " + " | ".join([r["set"], str(r["train"]), f"{r['test']}, {r['anomalous']}", r["arm"],
                                        r["image_score"], *values, f"{r['seconds']:.3f}", size]) + " |")  # fmt: skip
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = parser.add_subparsers(dest="question", required=True)
    for name, text in (("backbones", "EfficientNet-Lite0 and a ViT"), ("layers", "one bank, or one for each layer"),
                       ("zeroshot", "no training images, against a bank")):  # fmt: skip
        p = asked.add_parser(name, help=text, description=text)
        p.add_argument("folders", nargs="+", type=Path, metavar="DATA")
        p.add_argument("--weights", default="auto", help="of EfficientNet-Lite0")
        p.add_argument("--max-train", type=_count, default=100, metavar="N", help="training images (default 100)")
        p.add_argument("--json", type=Path, metavar="FILE")
        if name == "zeroshot":
            p.add_argument("--runs", type=_count, default=3, metavar="N", help="that are timed (default 3)")
        else:
            p.add_argument("--timed", type=_count, default=15, metavar="N", help="test images (default 15)")
        if name == "backbones":
            p.add_argument("--vit", required=True, metavar="WEIGHTS", help="of the ViT-S/14; see vit_weights")
            p.add_argument("--image-size", type=_count, nargs="+", default=[448], metavar="PX", help="of the ViT")
            p.add_argument("--variants", action="store_true", help="the ViT with other settings too")
    args = parser.parse_args(argv)
    if args.question == "zeroshot":
        rows = [one for folder in args.folders for one in unlabelled(folder, args)]
    else:
        arms = backbones(args) if args.question == "backbones" else layers(args)
        rows = [one for folder in args.folders for one in measure(folder, arms, args)]
    print(table(rows))
    if args.json:
        options = {name: value for name, value in vars(args).items() if name not in ("folders", "json", "question")}
        options |= {name: Path(options[name]).name for name in ("weights", "vit") if name in options}
        result = {"benchmark": "settings", "question": args.question, "environment": describe("cpu"),
                  "options": options, "rows": rows}  # fmt: skip
        records.write(args.json, result)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a number of 1 or more is wanted, got {text}")
    return number


if __name__ == "__main__":
    main()
