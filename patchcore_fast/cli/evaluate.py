"""evaluate: a folder in MVTec layout, or a folder of such folders, one a category."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_bank, check_images, check_room, need_index, need_pipeline
from patchcore_fast.cli.budget import budget_text
from patchcore_fast.cli.decision import given_thresholds, regions_said, verdicts
from patchcore_fast.cli.exclusion import check_exclude, refuse_exclude, training_set
from patchcore_fast.cli.models import facts_of, is_method, load_model, scored_by
from patchcore_fast.cli.options import check_loaded, chosen_config
from patchcore_fast.cli.outputs import check_folder, check_outputs_differ, output_folder, writable_file
from patchcore_fast.cli.pipeline import counted, fitted
from patchcore_fast.cli.sampling import report_table
from patchcore_fast.cli.tracking import chosen_tracking, log_page
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.config.tracking import TrackingSettings
    from patchcore_fast.data import ImageSet


def evaluate(args: argparse.Namespace) -> int:
    """Measure on the test images of a folder, or of each category in it; print a table, write what was asked for."""
    given_thresholds(args)
    config = None
    if args.bank is None:
        config = chosen_config(args)
        need_index(config.search.index)
    else:
        check_loaded(args, "fitting, and --bank brings a fitted model")
        refuse_exclude(args, "belongs to fitting, and --bank brings a fitted model")
        check_bank(args.bank)
    tracking = chosen_tracking(args)
    if tracking.log is not None and args.output is None:
        raise DataError("--log: logs what --output DIR writes, and --output is not given")
    check_images(args.folder)
    check_exclude(args)
    json_file = None if args.json is None else writable_file(args.json)
    if args.output is not None:
        check_room(args.output)
    need_pipeline()

    from patchcore_fast.data.categories import find_categories
    from patchcore_fast.data.conventions import META
    from patchcore_fast.data.meta import list_of

    categories = find_categories(args.folder, args.output, args.classes)
    if args.classes is not None and len(categories) == 1:
        args.folder, categories = str(categories[0]), []
    if not categories:
        return _one(args, config, json_file, tracking)
    if config is None or tracking.log is not None:
        option = "--bank" if config is None else "--log"
        raise DataError(f"{option} goes with one category; {args.folder} holds {len(categories):,}, give one of them")
    refuse_exclude(args, f"goes with one category; {args.folder} holds {len(categories):,}")
    if list_of(args.folder) is None and (Path(args.folder) / META).is_file():
        print(f"{META} is not used, the folders say what is what; give {Path(args.folder) / META} to take it.")
    if args.output is None:
        raise DataError(f"{args.folder} holds {len(categories):,} categories ({_named(categories)}): give --output DIR")

    from patchcore_fast.cli.categories import evaluate_categories

    args.resumes = True  # a run that was ended is gone on with

    return evaluate_categories(
        config, given_thresholds(args), Path(args.folder), categories, Path(args.output), json_file
    )


def _one(
    args: argparse.Namespace, config: PatchCoreConfig | None, json_file: Path | None, tracking: TrackingSettings
) -> int:
    """Of one set; `config` to fit with, None for the bank of `args`."""
    from patchcore_fast.data import scan
    from patchcore_fast.report import metrics_table, write_json
    from patchcore_fast.report.gallery import write_evaluation
    from patchcore_fast.tracking import require

    if tracking.log is not None:
        require(tracking.log)  # before the long work: what is there need not work
    if config is None:
        images = scan(args.folder)
    else:
        images, config = training_set(args, config)
    if not images.test:
        raise DataError(
            f"{args.folder}: no test images (wanted test/good and test/<defect>); use predict for images without labels"
        )
    _check_outputs(args, images)
    output = None if args.output is None else output_folder(args.output)
    model: Any = load_model(args) if config is None else fitted(config, images, given_thresholds(args))
    result = model.evaluate(images, on_error="return")
    if config is not None and model.bank.size is not None:
        print(budget_text(model.bank.size))
    if config is not None and args.verbose and (table := report_table(model.report_)):
        print(table)
    name = images.summary.folder if images.layout == "list" else Path(args.folder).resolve().name
    unread = [(r["path"], r["error"]) for r in [*result.unread, *result.images] if r["error"]]
    if is_method(model):
        print(f"{model.said()}.")
    row = scored_by(model) | headline(result.metrics) | _shots(model)
    print(metrics_table({name: row}, corner="folder"))
    print(verdicts(result.metrics, facts_of(model)))
    if said := regions_said(result.metrics):
        print(said)
    if not any(r.label == 0 for r in images.test) or not any(r.label == 1 for r in images.test):
        print("AUROC needs normal (test/good) and anomalous test images; here is one class only.")
    if result.unread:
        print(
            f"{counted(len(result.unread))} could not be read: these numbers are of the other {len(result.images):,}."
        )
    problems = None
    if json_file is not None:
        fit = {} if config is None else {"fit": {"seconds": model.timings_, "sampler": model.report_}}
        write_json(json_file, result.to_dict() | {"data": images.summary.to_dict()} | fit)
        print(f"All numbers: {json_file}")
    if output is not None:
        problems = write_evaluation(output, name, images, result, model)
        print(f"Pictures and scores: {output}")
        if (output / "report.json").is_file():
            print(f"Next, one page to look at:  patchcore-fast report {output}")
            if tracking.log is not None:
                log_page(tracking, output, model)
    elif json_file is None:
        print("Add --output DIR for plots and a contact sheet, --json FILE for all numbers.")
    return tell([*((path, why) for path, why in model.unread_ if args.bank is None), *unread], problems)


def _check_outputs(args: argparse.Namespace, images: ImageSet) -> None:
    """Refuse outputs on each other, on the bank, and on the images."""
    read = [] if args.bank is None else [("--bank", Path(args.bank))]
    for record in [*images.train, *images.test]:
        read += [("image", record.path)] + ([] if record.mask is None else [("mask", record.mask)])
    if args.json is not None:
        check_outputs_differ({"--json": args.json}, read)
    if args.output is not None:
        json_file = [] if args.json is None else [("--json", args.json)]
        check_folder(args.output, [*json_file, *read], [("DIR", images.root)])


def _shots(model: Any) -> dict[str, str]:
    """A column for a bank that was made of few or of augmented images."""
    from patchcore_fast.model.fewshot import described

    text = described(facts_of(model).config)
    return {} if text == "all" else {"shots": text}


def headline(metrics: dict[str, float]) -> dict[str, Any]:
    """The numbers of a line on the screen."""
    names = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO",
             "pixel_iou_max": "IoU-max", "image_f1": "best F1"}  # fmt: skip
    return {text: float(metrics[key]) for key, text in names.items()} | {"images": int(metrics["n_test"])}


def _named(folders: list[Path]) -> str:
    more = f" and {len(folders) - 3:,} more" if len(folders) > 3 else ""
    return ", ".join(folder.name for folder in folders[:3]) + more
