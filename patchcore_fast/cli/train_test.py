"""train --mode test: what a training has left, measured on test images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_images, check_room, need_pipeline
from patchcore_fast.cli.categories import Fitting, each_category
from patchcore_fast.cli.decision import REGIONS, TARGETS, given_thresholds, regions_said, verdicts
from patchcore_fast.cli.evaluate import headline
from patchcore_fast.cli.exclusion import refuse_exclude
from patchcore_fast.cli.finished import digest_of
from patchcore_fast.cli.method_options import typed_settings
from patchcore_fast.cli.models import facts_of, scored_by
from patchcore_fast.cli.options import flag
from patchcore_fast.cli.outputs import check_folder, output_folder
from patchcore_fast.cli.training import KEPT, MODEL
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.data import ImageSet

SETTINGS = ("weights", "device", "workers", *TARGETS, *REGIONS)  # that it takes; others belong to training


def test(args: argparse.Namespace) -> int:
    """Print the table of metrics, and with --output write pictures and pages; nothing is trained."""
    decided = given_thresholds(args)
    _check(args)
    check_images(args.folder)
    if args.output is not None:
        check_room(args.output)
    need_pipeline()

    from patchcore_fast.data.categories import find_categories

    found = find_categories(args.folder, args.output, args.classes)
    if args.classes is not None and len(found) == 1:
        args.folder, found = str(found[0]), []
    return _each(args, decided, found) if found else _one(args, decided)


def _check(args: argparse.Namespace) -> None:
    """DataError: options that do not go together, and a checkpoint that is not there."""
    if args.checkpoint is None:
        raise DataError("--mode test: --checkpoint FOLDER or FILE is wanted, what is to be tested")
    refuse_exclude(args, "belongs to training, and --mode test does none")
    typed = [flag(name) for name in typed_settings(args) if name not in SETTINGS]
    typed += [f"--{name}" for name in ("preset", "config") if getattr(args, name) is not None]
    typed += ["--evaluate-every"] if args.evaluate_every is not None else []
    if typed:
        raise DataError(f"{', '.join(typed)}: belongs to training, and --mode test does none")
    if not os.path.exists(args.checkpoint):
        raise DataError(f"{args.checkpoint}: no such file or folder")


def _loaded(args: argparse.Namespace, path: Path, decided: Mapping[str, float]) -> Any:
    from patchcore_fast.methods import load_any

    given = typed_settings(args)
    wanted = {name: given.pop(name) for name in TARGETS if name in given} | dict(decided)
    model: Any = load_any(path, given.pop("device", None), weights=given.pop("weights", None),
                          allow_download=args.allow_download)  # fmt: skip
    if args.method not in (None, getattr(model, "name", "patchcore")):
        raise DataError(
            f"{path}: METHOD is {args.method}, and this is a model of {getattr(model, 'name', 'patchcore')}"
        )
    model.config = model.config.replace(**given)
    if wanted:
        model.decide(**wanted)
    return model


def _one(args: argparse.Namespace, decided: Mapping[str, float]) -> int:
    from patchcore_fast.data import scan
    from patchcore_fast.report import metrics_table
    from patchcore_fast.report.gallery import write_evaluation

    images = scan(args.folder)
    if not images.test:
        raise DataError(f"{args.folder}: no test images (wanted test/good and test/<defect>)")
    if args.output is not None:
        read = [("image", r.path) for r in [*images.train, *images.test]]
        read += [("mask", r.mask) for r in images.test if r.mask is not None]
        check_folder(args.output, read, [("DIR", images.root), ("--checkpoint", args.checkpoint)])
    model = _loaded(args, Path(args.checkpoint), decided)
    result = model.evaluate(images, on_error="return")
    name = images.summary.folder if images.layout == "list" else Path(args.folder).resolve().name
    print(metrics_table({name: scored_by(model) | headline(result.metrics)}, corner="folder"))
    print(verdicts(result.metrics, facts_of(model)))
    if said := regions_said(result.metrics):
        print(said)
    problems = None
    if args.output is not None:
        output = output_folder(args.output)
        problems = write_evaluation(output, name, images, result, model)
        print(f"Pictures and scores: {output}")
        print(f"Next, one page to look at:  patchcore-fast report {output}")
    else:
        print("Next, with pictures:  the same with --output DIR")
    return tell([(r["path"], r["error"]) for r in [*result.unread, *result.images] if r["error"]], problems)


def _each(args: argparse.Namespace, decided: Mapping[str, float], folders: list[Path]) -> int:
    """Every category by its model below --checkpoint, the output folder of their training."""
    from patchcore_fast.methods.checkpoint import JSON

    if args.output is None:
        raise DataError(f"{args.folder} holds {len(folders):,} categories: give --output DIR")
    place = Path(args.checkpoint)
    models = {}
    for folder in folders:
        choices = (place / folder.name / MODEL, place / folder.name / KEPT)
        models[folder.name] = next((path for path in choices if path.exists()), choices[0])
    first = next((path for path in models.values() if path.exists()), None)
    if first is None:
        raise DataError(f"{place}: has no {folders[0].name}/{MODEL}; the output folder of a training of these "
                        "categories is wanted")  # fmt: skip
    first_model = _loaded(args, first, decided)
    config = getattr(first_model, "described", first_model.config)

    def fit(_: ImageSet, output: Path) -> Any:
        return _loaded(args, models[output.name], decided)

    # Of a folder of checkpoints what says how far its training is.
    files = [path / JSON if path.is_dir() else path for path in models.values()]
    weights = digest_of([path for path in files if path.is_file()])
    return each_category(Fitting(config, weights, fit), decided, Path(args.folder), folders, Path(args.output))
