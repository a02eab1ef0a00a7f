"""What precision and fusion do to accuracy and to the size of the bank: PatchCore fitted with each, on image folders.

    python -m benchmarks.accuracy.variants FOLDER [FOLDER ...] [--train-images 60] [--output FILE.json]

Each variant is a PatchCoreConfig; each is fitted on the same training images with the same seed, and evaluated by
`PatchCore.evaluate`. Beside image AUROC, pixel AUROC and pixel AP: how far the image scores are from float32's
(median and largest relative difference; precision only, as other fusions have other units). Rounded features also lead
greedy selection to other rows, which moves scores more than the rounding does: "same picks" takes float32's rows, so
that what is left is the rounding. Further: bytes of the bank's features, and the seconds that fit and evaluate took,
which on a busy machine are no measurement and no claim here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.data import ImageSet, scan
from patchcore_fast.errors import DataError
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.samplers import PrecomputedSampler

BASE = "float32"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "float16": {"precision": "float16"},
    "bfloat16": {"precision": "bfloat16"},
    "float16, same picks": {"precision": "float16"},
    "bfloat16, same picks": {"precision": "bfloat16"},
    "two layers, projected to 64": {"fusion": "interpolated", "dim": 64},
    "two layers, pooled to 64": {"fusion": "interpolated", "dim": 64, "reduction": "pool"},
    "three layers": {"fusion": "interpolated", "layers": (1, 2, 3)},
    "three layers, projected to 64": {"fusion": "interpolated", "layers": (1, 2, 3), "dim": 64},
    "three layers, pooled to 64": {"fusion": "interpolated", "layers": (1, 2, 3), "dim": 64, "reduction": "pool"},
}
SAME = ", same picks"
METRICS = ("image_auroc", "pixel_auroc", "pixel_ap")


def some(items: list[Any], most: int | None) -> list[Any]:
    """At most so many, evenly spread."""
    if most is None or len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def run(images: ImageSet, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each variant, the float32 one first."""
    base, picks = np.zeros(0), torch.zeros(0, dtype=torch.int64)
    for name in dict.fromkeys([BASE, *args.variants]):
        settings = {"image_size": args.image_size, "ratio": args.ratio, "seed": args.seed, "weights": args.weights}
        settings |= {"neighbours": 1, "price": 0.0}  # what the results on the pages are of
        config = PatchCoreConfig(**settings, device=args.device, **VARIANTS[name])
        sampler = PrecomputedSampler(picks) if name.endswith(SAME) else None
        model = PatchCore(config, sampler, progress=False).fit(some(images.train, args.train_images))
        found = model.evaluate(images.test)
        scores = np.array([p.score for p in found.predictions])
        row: dict[str, Any] = {"set": images.root.resolve().name, "variant": name, "train": len(model.bank.images)}
        row |= {m: found.metrics[m] for m in METRICS if np.isfinite(found.metrics[m])}
        row |= {"rows": len(model.bank), "dim": model.bank.features.shape[1],
                "bank_bytes": model.bank.features.nbytes, "threshold": model.threshold,
                "fit_s": sum(model.timings_.values()), "evaluate_s": found.timings["predict"]}  # fmt: skip
        if name == BASE:
            base, picks = scores, model.bank.indices
        if name == BASE or "precision" in VARIANTS[name]:
            off = np.abs(scores - base) / base
            row |= {"score_off_median": float(np.median(off)), "score_off_most": float(off.max())}
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """Text of the rows."""
    lines = [f"{'set':24}{'variant':32}" + "".join(f"{m:>13}" for m in METRICS) + f"{'dim':>5}{'bank':>10}  score off"]
    for row in rows:
        values = "".join(f"{row[m]:>13.3f}" if m in row else f"{'-':>13}" for m in METRICS)
        off = f"{row['score_off_median']:.1e}, most {row['score_off_most']:.1e}" if "score_off_most" in row else ""
        bank = f"{row['bank_bytes'] / 1e6:.2f} MB"
        lines.append(f"{row['set']:24}{row['variant']:32}{values}{row['dim']:>5}{bank:>10}  {off}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure each variant, write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="MVTec layout")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="V")
    parser.add_argument("--train-images", type=int, metavar="N", help="training images at most (default: all)")
    parser.add_argument("--test-images", type=int, metavar="N", help="test images of a kind at most (default: all)")
    parser.add_argument("--ratio", type=float, default=0.01, metavar="R")
    parser.add_argument("--image-size", type=int, default=256, metavar="PX")
    parser.add_argument("--weights", default="auto", metavar="W")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--device", metavar="D")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args(argv)
    if any(n is not None and n < 1 for n in (args.train_images, args.test_images)):
        parser.error("--train-images and --test-images must be at least 1")
    names = ("train_images", "test_images", "ratio", "image_size", "weights", "seed", "device")
    result: dict[str, Any] = {
        "benchmark": "variants", "environment": describe(args.device or "cpu") | {"load": os.getloadavg()[0]},
        "options": {n: getattr(args, n) for n in names}, "rows": [],
    }  # fmt: skip
    for folder in args.folders:
        try:
            images = scan(folder)
        except DataError as error:
            raise SystemExit(str(error)) from error
        good, bad = ([r for r in images.test if r.label == kind] for kind in (0, 1))
        test = some(good, args.test_images) + some(bad, args.test_images)
        for row in run(ImageSet(images.root, images.train, test, images.layout), args):
            result["rows"].append(row)
            if args.output is not None:
                records.write(args.output, result)
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
