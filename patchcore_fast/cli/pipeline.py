"""fit, predict and evaluate: from the arguments to the model and from its answers to files and text."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.parser import MODEL, SCORING, given_options
from patchcore_fast.cli.report import check_log, log_page
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.model import PatchCore

SCALE_IMAGES = 64  # the colour scale is set by this many images, so that the others can be drawn as they come


def writable_file(name: str) -> Path:
    """Refuse an output file that cannot be made, before the long work and not after it."""
    path = Path(name)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, a file name is wanted")
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"{path}: the folder {path.parent} is not writable")
    return path


def output_folder(name: str) -> Path:
    """Make an output folder now, for the same reason."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file, a folder is wanted")
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise DataError(f"{path}: the folder is not writable")
    return path


def _fit(args: argparse.Namespace, images: Any) -> PatchCore:
    from patchcore_fast.model import PatchCore, PatchCoreConfig

    model = PatchCore(PatchCoreConfig(**given_options(args)))
    model.fit(images)
    return model


def _load(args: argparse.Namespace) -> PatchCore:
    """The bank of `args`; device, batch size and workers may differ from those of the fit."""
    from patchcore_fast.model import PatchCore

    given = given_options(args)
    model = PatchCore.load(
        args.bank, given.pop("device", None), weights=given.pop("weights", None), allow_download=args.allow_download
    )
    model.rescore(**{o.field: given.pop(o.field) for o in SCORING if o.field in given})
    model.config = dataclasses.replace(model.config, **given)
    return model


def fit(args: argparse.Namespace) -> None:
    """Fit on a folder, save the bank, say what to do next."""
    from patchcore_fast.data import scan

    output = writable_file(args.output)
    images = scan(args.folder)
    model = _fit(args, images)
    model.save(output)
    print(_bank_text(model, len(images.train)))
    print(f"Saved {output} ({output.stat().st_size / 1e6:.1f} MB).")
    if images.test:
        print(f"Next, its accuracy:   patchcore-fast evaluate {args.folder} --bank {output} --output report")
    else:
        print(f"{args.folder} has no test images, so there is nothing to measure accuracy on.")
    print(f"Next, heat maps:      patchcore-fast predict {output} IMAGES --output out")


def _bank_text(model: PatchCore, count: int) -> str:
    bank, (rows, dim) = model.bank, model.bank.features.shape
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in model.timings_.items())
    threshold = "no threshold" if bank.threshold is None else f"threshold {bank.threshold:.4g}"
    kept = f"{rows:,} of {bank.patches:,} patches of {dim} numbers kept"
    return f"Fitted on {_count(count)}: {kept}, {threshold} ({spent})."


def predict(args: argparse.Namespace) -> None:
    """Score images; write overlays, scores.csv and a contact sheet of the highest scores."""
    from patchcore_fast.data import scan_images
    from patchcore_fast.report import shared_scale, write_scores_csv
    from patchcore_fast.report.gallery import Gallery

    model = _load(args)
    records = scan_images(args.images)
    output = output_folder(args.output)
    stream = zip(records, model.iter_predict(records), strict=True)
    first = list(itertools.islice(stream, SCALE_IMAGES))
    limits = shared_scale((p.anomaly_map for _, p in first), model.threshold)
    root = Path(os.path.commonpath([r.path.absolute().parent for r in records]))
    gallery = Gallery(output / "heatmaps", *limits, root)
    rows = []
    for record, prediction in itertools.chain(first, stream):
        picture, _ = gallery.add(record, prediction)
        rows.append({"path": str(record.path), "score": prediction.score, "is_anomalous": prediction.is_anomalous,
                     "heatmap": picture.relative_to(output).as_posix()})  # fmt: skip
    gallery.write_sheet(output / "contact_sheet.png", _count(len(rows)))
    write_scores_csv(output / "scores.csv", rows)
    print(f"{_count(len(rows))} scored{_verdicts(rows)}.")
    print(f"Look at {output / 'contact_sheet.png'}; single pictures are in {output / 'heatmaps'}, "
          f"numbers in {output / 'scores.csv'}.")  # fmt: skip


def _count(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"


def _verdicts(rows: list[dict[str, Any]]) -> str:
    known = [r["is_anomalous"] for r in rows if r["is_anomalous"] is not None]
    return f", {sum(known)} above the threshold" if known else ""


def evaluate(args: argparse.Namespace) -> None:
    """Measure on the test images of a folder; print a table, write JSON, plots and a contact sheet where asked."""
    from patchcore_fast.data import scan
    from patchcore_fast.report import metrics_table, write_json
    from patchcore_fast.report.gallery import write_evaluation

    if args.bank is not None:
        typed = [o.flag for o in MODEL if hasattr(args, o.field)]
        if typed:
            raise DataError(f"{', '.join(typed)}: belongs to fitting, and --bank brings a fitted model")
    if args.log is not None:
        check_log(args.log, args.output)
    json_file = None if args.json is None else writable_file(args.json)
    images = scan(args.folder)
    if not images.test:
        raise DataError(
            f"{args.folder}: no test images (wanted test/good and test/<defect>); use predict for images without labels"
        )
    output = None if args.output is None else output_folder(args.output)
    model = _load(args) if args.bank is not None else _fit(args, images)
    result = model.evaluate(images)
    name = Path(args.folder).resolve().name
    row = {"scorer": model.config.scorer_name} | _headline(result.metrics) | _shots(model)
    print(metrics_table({name: row}, corner="folder"))
    if not any(r.label == 0 for r in images.test) or not any(r.label == 1 for r in images.test):
        print("AUROC needs normal (test/good) and defective test images; here is one kind only.")
    if json_file is not None:
        write_json(json_file, result.to_dict())
        print(f"All numbers: {json_file}")
    if output is not None:
        write_evaluation(output, name, images, result, model)
        print(f"Pictures and scores: {output}")
        print(f"Next, one page to look at:  patchcore-fast report {output}")
        if args.log is not None:
            log_page(args.log, output)
    elif json_file is None:
        print("Add --output DIR for plots and a contact sheet, --json FILE for all numbers.")


def _shots(model: PatchCore) -> dict[str, str]:
    """A column for a bank that was made of few or of augmented images."""
    from patchcore_fast.model.fewshot import described

    text = described(model.bank.config)
    return {} if text == "all" else {"shots": text}


def _headline(metrics: dict[str, float]) -> dict[str, Any]:
    names = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO",
             "image_f1": "best F1"}  # fmt: skip
    return {text: float(metrics[key]) for key, text in names.items()} | {"images": int(metrics["n_test"])}
