"""What an exported file keeps of a model's accuracy, how large it is, and how long it takes for an image.

    python -m benchmarks.accuracy.export DATA... --json benchmarks/results/DEVICE/export/NAME.json

DATA are folders in MVTec AD's layout; the result is the table of docs/export.md. A PatchCore with a 1 % bank is fitted
on --max-train training images, written in every format and precision that the installed packages take, and model and
files predict all test images one by one from memory, taking turns: milliseconds are medians over these. Scores are
compared relative to the model's. The pixel AUROC is of every fourth row and column. INT8 is calibrated on --calibration
of the training images.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import sets
from benchmarks.accuracy.settings import _count, fit
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from patchcore_fast.data import load_image, scan
from patchcore_fast.data.dataset import load_truth
from patchcore_fast.export import PRECISIONS, SUFFIXES, ExportedModel, export_model
from patchcore_fast.metrics import image_auroc, pixel_auroc
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.progress import bar

STEP = 4  # between the rows and columns of a map that the pixel AUROC is of
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
NEEDS = {".pt2": (), ".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("onnx", "onnxscript", "openvino", "nncf")}


def kinds(asked: Sequence[str] = SUFFIXES) -> list[tuple[str, str]]:
    """(suffix, precision) of what can be written here, of these formats."""
    return [
        (suffix, precision) for suffix in asked for precision in PRECISIONS
        if (suffix, precision) != (".pt2", "int8") and all(map(importlib.util.find_spec, NEEDS[suffix]))
    ]  # fmt: skip


def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The model's row, then one for each file."""
    images = scan(folder)
    config = PatchCoreConfig(weights=args.weights, image_size=args.image_size, device="cpu", **sets.NEAREST)
    model = fit(images, config, args.max_train)
    step = -(-len(images.train) // args.calibration)
    calibration = torch.stack([load_image(r.path, config.resize) for r in images.train[::step]])
    runners: list[PatchCore | ExportedModel] = [model]
    about = {"set": images.root.resolve().name, "train": len(model.bank.images), "test": len(images.test),
             "bank_rows": len(model.bank)}  # fmt: skip
    rows = [about | {"format": "model", "precision": "fp32", "bytes": None}]
    with tempfile.TemporaryDirectory() as out:
        for suffix, precision in kinds(args.formats):
            path = Path(out, f"{precision}{suffix}")
            export_model(model, path, precision=precision, calibration=calibration if precision == "int8" else None)
            runners.append(ExportedModel.load(path, progress=False))
            parts = (path, path.with_suffix(".bin")) if suffix == ".xml" else (path,)
            size = sum(part.stat().st_size for part in parts)
            rows.append(about | {"format": suffix, "precision": precision, "bytes": size})
    scores: list[list[float]] = [[] for _ in runners]
    maps: list[list[np.ndarray]] = [[] for _ in runners]
    taken: list[list[float]] = [[] for _ in runners]
    masks = []
    with bar(len(images.test), about["set"]) as shown:
        for record in images.test:
            image = load_image(record.path, config.resize)[None]
            truth = load_truth(record, image.shape[2:], config.resize)
            masks.append(None if truth is None else truth[::STEP, ::STEP].numpy())
            for i, runner in enumerate(runners):
                clock = time.perf_counter()
                found = runner.predict(image)[0]
                taken[i].append(time.perf_counter() - clock)
                scores[i].append(found.score)
                maps[i].append(found.anomaly_map[::STEP, ::STEP])
            shown.update()
    known = [i for i, mask in enumerate(masks) if mask is not None]
    truths = np.stack([mask for mask in masks if mask is not None])
    for row, got, drawn, seconds in zip(rows, scores, maps, taken, strict=True):
        apart = np.abs(np.array(got) / np.array(scores[0]) - 1)
        row |= {
            "seconds": float(np.median(seconds)), "largest_difference": float(apart.max()),
            "median_difference": float(np.median(apart)),
            "image_auroc": image_auroc(got, [r.label for r in images.test]),
            "pixel_auroc": pixel_auroc(np.stack([drawn[i] for i in known]), truths),
        }  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each row."""
    heads = ["set", "format", "precision", "MB", "ms an image", "scores apart: median", "largest", *METRICS.values()]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for r in rows:
        ours = r["format"] == "model"
        apart = ["", ""] if ours else [f"{r[name]:.1e}" for name in ("median_difference", "largest_difference")]
        first = next(o for o in rows if o["set"] == r["set"])
        values = [f"{r[name]:.4f}" + ("" if ours else f" ({r[name] - first[name]:+.4f})") for name in METRICS]
        cells = [r["set"], "this package" if ours else r["format"], r["precision"],
                 "" if ours else f"{r['bytes'] / 1e6:.1f}", f"{1000 * r['seconds']:.0f}", *apart, *values]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--weights", default="auto", help="of EfficientNet-Lite0")
    parser.add_argument("--formats", nargs="+", choices=SUFFIXES, default=SUFFIXES, help="(default all)")
    parser.add_argument("--image-size", type=_count, default=256, metavar="PX", help="(default 256)")
    parser.add_argument("--max-train", type=_count, default=100, metavar="N", help="training images (default 100)")
    parser.add_argument("--calibration", type=_count, default=100, metavar="N", help="images, about (default 100)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    rows = [one for folder in args.folders for one in measure(folder, args)]
    print(table(rows))
    if args.json:
        options = {name: value for name, value in vars(args).items() if name not in ("folders", "json")}
        options["weights"] = Path(args.weights).name
        environment = describe("cpu")
        for name in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"):
            if importlib.util.find_spec(name):
                environment["versions"][name] = metadata.version(name)
        records.write(args.json, {"benchmark": "export", "environment": environment, "options": options, "rows": rows})


if __name__ == "__main__":
    main()
