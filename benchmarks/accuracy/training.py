"""Methods that are trained, epoch by epoch: what the curve does, and what the last epoch is worth.

    python -m benchmarks.accuracy.training FOLDER [FOLDER ...] --method rd|simplenet [--epochs N] [--output FILE.json]

Each set is trained on once for each seed. The curve has metrics of the test images at every epoch that
`--evaluate-every` divides and at the last one; they decide nothing, and the result is the last epoch's. The best values
stand beside it with their epochs: they are what a choice on the test images would have reported. `--vary noise 0.015 1`
trains with each of these values of one of the method's settings. With `--checkpoint` a run that was stopped goes on.
Seconds are of one run: `features_s` of reading all training images and running the backbone once, `train_s` of all
steps, `whole_s` of the process that ended it, on a machine that `environment.load` says how busy it was.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.config.methods import MethodConfig, default_config
from patchcore_fast.data import ImageSet, scan
from patchcore_fast.methods import make_method
from patchcore_fast.methods.curves import best
from patchcore_fast.metrics import HEADLINE

METHODS = ("rd", "simplenet")


def chosen(args: argparse.Namespace, seed: int, varied: dict[str, Any]) -> MethodConfig:
    """The method's defaults with what was asked for."""
    config = default_config(args.method)
    base = {"seed": seed} | {n: v for n in ("backbone", "weights", "image_size", "device") if (v := getattr(args, n))}
    own = ({} if args.epochs is None else {"epochs": args.epochs}) | varied
    return MethodConfig(args.method, config.base.replace(**base), config.settings.replace(**own))


def run(name: str, images: ImageSet, args: argparse.Namespace, seed: int, varied: dict[str, Any]) -> dict[str, Any]:
    """One training and what came of it."""
    label = "-".join([args.method, name, str(seed), *(f"{k}={v}" for k, v in varied.items())])
    folder = None if args.checkpoint is None else args.checkpoint / label
    model: Any = make_method(args.method, chosen(args, seed, varied), progress=False)
    clock = time.perf_counter()

    def told(row: Any) -> None:
        known = {key: round(row[key], 4) for key in ("loss", "image_auroc", "pixel_auroc") if key in row}
        print(f"{label}, epoch {row['epoch']}: {known}", flush=True)

    model.fit(images, checkpoint=folder, test=images, evaluate_every=args.evaluate_every, on_epoch=told)
    seconds = time.perf_counter() - clock
    metrics, trained = model.evaluate(images).metrics, [row["seconds"] for row in model.curve_]
    scores = model.learned.normal_scores
    return {
        "set": name, "method": args.method, "seed": seed, "varied": varied, "train": model.learned.count,
        "held_out": 0 if scores is None else len(scores), "test": metrics["n_test"],
        "settings": model.described.to_dict(), "features_s": model.timings_["features"], "train_s": sum(trained),
        "whole_s": seconds,
        "last": {key: metrics[key] for key in (*HEADLINE, "threshold", "true_positives", "false_negatives",
                                               "false_positives", "true_negatives") if key in metrics},
        "best": {key: {"value": value, "epoch": epoch} for key, (value, epoch) in best(model.curve_).items()},
        "curve": model.curve_,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The last epoch of each run, and the best image AUROC of its curve."""
    lines = ["| set | seed | settings | epochs | image AUROC | pixel AUROC | pixel AP | AUPRO | best image AUROC |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in result["runs"]:
        cells = [f"{r['last'][key]:.3f}" for key in ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")]
        top = r["best"]["image_auroc"]
        varied = ", ".join(f"{k} {v}" for k, v in r["varied"].items()) or "default"
        lines.append(f"| {r['set']} | {r['seed']} | {varied} | {len(r['curve'])} | {' | '.join(cells)} | "
                     f"{top['value']:.3f} (epoch {top['epoch']}) |")  # fmt: skip
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Train on each set, write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="MVTec layout")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the method's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--vary", nargs="+", default=[], metavar=("NAME", "VALUE"),
                        help="one of the method's settings that are numbers, and its values")  # fmt: skip
    parser.add_argument("--evaluate-every", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--backbone", metavar="NAME")
    parser.add_argument("--weights", metavar="W", help='"auto", "random" or a weight file')
    parser.add_argument("--image-size", type=int, metavar="PX")
    parser.add_argument("--device", metavar="D")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="keep every epoch here, and go on from it")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args(argv)
    values = [{args.vary[0]: float(value)} for value in args.vary[1:]] or [{}]
    names = ("method", "epochs", "seeds", "vary", "evaluate_every", "backbone", "weights", "image_size", "device")
    result: dict[str, Any] = {
        "benchmark": "training", "environment": describe(args.device or "cpu") | {"load": os.getloadavg()[0]},
        "options": {name: getattr(args, name) for name in names}, "runs": [],
    }  # fmt: skip
    for folder in args.folders:
        images = scan(folder)
        for seed, varied in product(args.seeds, values):
            result["runs"].append(run(folder.resolve().name, images, args, seed, varied))
            if args.output is not None:
                records.write(args.output, records.short(result), schema=None)
    print(table(result))


if __name__ == "__main__":
    main()
