"""What an exported file keeps of a model's accuracy, how large it is, and how long it takes for an image.

    python -m benchmarks.accuracy.export DATA... --json benchmarks/results/DEVICE/export/NAME.json

DATA are folders in MVTec AD's layout; the result is the table of docs/export.md. A PatchCore with a 1 % bank is fitted on
--max-train training images, written in every format and precision that the installed packages take, and each file is
evaluated on all test images. INT8 is calibrated on --calibration of the training images. Milliseconds are the median over
--timed test images, each predicted alone from memory by the model and all files in turn; scores are compared on all test
images, relative to the model's.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
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
from patchcore_fast.data import ImageRecord, load_image, scan
from patchcore_fast.export import PRECISIONS, SUFFIXES, ExportedModel, export_model
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.model.results import Evaluation
from patchcore_fast.progress import bar

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
NEEDS = {".pt2": (), ".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("onnx", "onnxscript", "openvino", "nncf")}


def kinds() -> list[tuple[str, str]]:
    """(suffix, precision) of what can be written here."""
    return [
        (suffix, precision) for suffix in SUFFIXES for precision in PRECISIONS
        if (suffix, precision) != (".pt2", "int8") and all(map(importlib.util.find_spec, NEEDS[suffix]))
    ]  # fmt: skip


def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The model's row, then one for each file."""
    images = scan(folder)
    config = PatchCoreConfig(weights=args.weights, image_size=args.image_size, device="cpu", **sets.NEAREST)
    model = fit(images, config, args.max_train)
    step = -(-len(images.train) // args.calibration)
    calibration = torch.stack([load_image(r.path, config.resize) for r in images.train[::step]])
    wanted = model.evaluate(images)
    about = {"set": images.root.resolve().name, "train": len(model.bank.images), "test": len(images.test),
             "bank_rows": len(model.bank)}  # fmt: skip
    rows = [about | row("model", "fp32", wanted, wanted) | {"bytes": None}]
    runners: list[PatchCore | ExportedModel] = [model]
    asked = kinds()
    with tempfile.TemporaryDirectory() as out, bar(len(asked), about["set"]) as shown:
        for suffix, precision in asked:
            path = Path(out, f"{precision}{suffix}")
            export_model(model, path, precision=precision, calibration=calibration if precision == "int8" else None)
            exported = ExportedModel.load(path, progress=False)
            parts = (path, path.with_suffix(".bin")) if suffix == ".xml" else (path,)
            size = sum(part.stat().st_size for part in parts)
            found = exported.evaluate(images)
            rows.append(about | row(suffix, precision, found, wanted) | {"bytes": size})
            runners.append(exported)
            shown.update()
        for one, seconds in zip(
            rows, alone(runners, images.test[:: max(1, len(images.test) // args.timed)]), strict=True
        ):
            one["seconds"] = seconds
    return rows


def row(suffix: str, precision: str, found: Evaluation, wanted: Evaluation) -> dict[str, Any]:
    """What was measured, without size and time."""
    got, model = (np.array([p.score for p in e.predictions]) for e in (found, wanted))
    values = {name: float(found.metrics[name]) for name in METRICS}
    apart = np.abs(got - model) / np.abs(model)
    return {
        "format": suffix, "precision": precision,
        "largest_difference": float(apart.max()), "median_difference": float(np.median(apart)),
        **{name: value if math.isfinite(value) else None for name, value in values.items()},
    }  # fmt: skip


def alone(models: Sequence[PatchCore | ExportedModel], tested: Sequence[ImageRecord]) -> list[float]:
    """Seconds of a prediction, the median over images for each; they take turns."""
    taken: list[list[float]] = [[] for _ in models]
    for number, record in enumerate([tested[0], *tested]):
        image = load_image(record.path, models[0].config.resize)[None]
        for model, times in zip(models, taken, strict=True):
            clock = time.perf_counter()
            model.predict(image)
            if number:  # the first one wakes threads and allocators
                times.append(time.perf_counter() - clock)
    return [float(np.median(times)) for times in taken]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each row."""
    heads = ["set", "format", "precision", "MB", "ms an image", "scores apart: median", "largest", *METRICS.values()]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for r in rows:
        ours = r["format"] == "model"
        apart = ["", ""] if ours else [f"{r[name]:.1e}" for name in ("median_difference", "largest_difference")]
        first = next(o for o in rows if o["set"] == r["set"])
        values = ["" if r[name] is None else f"{r[name]:.4f}" + ("" if ours else f" ({r[name] - first[name]:+.4f})")
                  for name in METRICS]  # fmt: skip
        cells = [r["set"], "this package" if ours else r["format"], r["precision"],
                 "" if ours else f"{r['bytes'] / 1e6:.1f}", f"{1000 * r['seconds']:.0f}", *apart, *values]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--weights", default="auto", help="of EfficientNet-Lite0")
    parser.add_argument("--image-size", type=_count, default=256, metavar="PX", help="(default 256)")
    parser.add_argument("--max-train", type=_count, default=100, metavar="N", help="training images (default 100)")
    parser.add_argument("--calibration", type=_count, default=100, metavar="N", help="images, about (default 100)")
    parser.add_argument("--timed", type=_count, default=20, metavar="N", help="test images, about (default 20)")
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
