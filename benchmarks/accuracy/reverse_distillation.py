"""Reverse distillation trained on real images: its curve, its last epoch, and whether noising its features helps.

    python -m benchmarks.accuracy.reverse_distillation FOLDER [FOLDER ...] --json R.json --plot FILE.png

Folders are in MVTec layout. Each seed is one training with the settings of the method (docs/methods.md) but for epochs;
a tenth of the training images is held out. Metrics of the test images are taken every few epochs and decide nothing:
what counts is the last epoch. There the same student scores once more by "noising", at three scales that are not fitted
to anything. Seconds are of a machine that may have had other work (`load`).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.config.methods import MethodConfig, ReverseDistillationSettings, default_config
from patchcore_fast.data import ImageSet, scan
from patchcore_fast.files import atomic_write
from patchcore_fast.methods.reverse_distillation import ReverseDistillation

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO"}
SCALES = (0.5, 1.0, 2.0)
LISTS = ("curves", "rows")  # of a result: a record for each epoch, and for each scorer after the last one


def measure(data: ImageSet, config: MethodConfig, every: int, told: Callable[[str, dict[str, Any]], None]) -> None:
    """One training: each epoch of its curve is told, then each scorer of the last one."""
    model = ReverseDistillation(config.base.replace(scorer="noising"), config.settings, progress=None)
    model.fit(data, test=data, evaluate_every=every, on_epoch=lambda row: told("curves", dict(row)))
    told("rows", {"scorer": "distance", **_only(model.curve_[-1])})  # a training measures without noise
    for scale in SCALES:
        model = copy.copy(model)
        model.config, model._ready = model.config.replace(noise_scale=scale), None
        told("rows", {"scorer": f"noising, scale {scale:g}", **_only(model.evaluate(data).metrics)})


def _only(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(metrics[name]) for name in METRICS if metrics.get(name) is not None}


def together(paths: Iterable[str | Path]) -> dict[str, list[dict[str, Any]]]:
    """LISTS of several results, in which a set has its size of images in its name."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
    for path in paths:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        size = result["options"]["image_size"]
        for name in LISTS:
            found[name] += [row | {"set": f"{row['set']}, {size} px"} for row in result[name]]
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: the last epoch by every scorer, means over seeds; `found` are rows of one result or more."""
    lines = ["| set | scorer | " + " | ".join(METRICS.values()) + " | image AUROC by seed |",
             "|---|---|" + "---:|" * len(METRICS) + "---|"]  # fmt: skip
    for name in dict.fromkeys(row["set"] for row in found):
        mine = [row for row in found if row["set"] == name]
        for scorer in dict.fromkeys(row["scorer"] for row in mine):
            group = sorted((row for row in mine if row["scorer"] == scorer), key=lambda row: row["seed"])
            means = [f"{np.mean([row[metric] for row in group]):.3f}" for metric in METRICS]
            seeds = ", ".join(f"{row['image_auroc']:.3f}" for row in group)
            lines.append(f"| {name} | {scorer} | {' | '.join(means)} | {seeds} |")
    return "\n".join(lines)


def plot(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, image and pixel AUROC by epoch, a column for each set, a line for each seed."""
    from patchcore_fast.report.plots import LINES, new_figure, quiet

    names = list(dict.fromkeys(row["set"] for row in curves))
    shown = {"loss": "loss", "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
    figure = new_figure(4.2 * len(names), 7.5, dpi=80)
    for column, name in enumerate(names):
        for line, (key, text) in enumerate(shown.items()):
            axes = figure.add_subplot(len(shown), len(names), 1 + column + line * len(names))
            for seed in dict.fromkeys(r["seed"] for r in curves if r["set"] == name):
                rows = [r for r in curves if r["set"] == name and r["seed"] == seed and key in r]
                axes.plot([r["epoch"] for r in rows], [r[key] for r in rows], color=LINES[seed % len(LINES)],
                          marker="" if key == "loss" else "o", markersize=4, label=f"seed {seed}")  # fmt: skip
            axes.set_xlim(left=0)
            if key != "loss":
                axes.set_ylim(0.5, 1.01)  # one scale for all sets
            axes.set_ylabel(text)
            quiet(axes)
            if not line:
                axes.set_title(name)
                axes.legend(fontsize=7)
        axes.set_xlabel("epoch")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as f:
        figure.savefig(f, format="png")


def main(argv: list[str] | None = None) -> None:
    """Train on each set by each seed, write after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="MVTec layout, with train/good")
    parser.add_argument("--shown", nargs="+", default=[], metavar="RESULT", help="train nothing, show these together")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--evaluate-every", type=int, default=5, metavar="N", help="epochs between two measurements")
    parser.add_argument("--batch-size", type=int, default=ReverseDistillationSettings().batch_size)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args(argv)
    if bool(args.folders) == bool(args.shown):
        parser.error("either folders or --shown is wanted")
    base = {"backbone": args.backbone, "weights": args.weights, "image_size": args.image_size, "device": "cpu"}
    plain = default_config("rd")
    own = plain.settings.replace(epochs=args.epochs, batch_size=args.batch_size)
    config = MethodConfig("rd", plain.base.replace(**base), own)
    options = {name: value for name, value in vars(args).items() if name not in ("folders", "shown", "json", "plot")}
    result: dict[str, Any] = {
        "benchmark": "reverse_distillation", "environment": describe("cpu") | {"load": os.getloadavg()[0]},
        "options": options, "config": config.to_dict(), **{name: [] for name in LISTS},
    }  # fmt: skip

    def told(kind: str, row: dict[str, Any], where: dict[str, Any]) -> None:
        result[kind].append(where | row)
        if args.json:
            records.write(args.json, result, schema=None, lines=LISTS)

    result |= together(args.shown)
    for folder in args.folders:
        data, name = scan(folder), folder.resolve().name
        for seed in args.seeds:
            seeded = MethodConfig("rd", config.base.replace(seed=seed), config.settings)
            measure(data, seeded, args.evaluate_every, partial(told, where={"set": name, "seed": seed}))
    print(table(result["rows"]))
    if args.plot is not None:
        plot(result["curves"], args.plot)


if __name__ == "__main__":
    main()
