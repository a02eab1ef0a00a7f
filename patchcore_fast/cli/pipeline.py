"""fit and evaluate: from the arguments to the model and from its answers to files and text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_bank, check_images, check_room, need_index, need_log, need_pipeline
from patchcore_fast.cli.decision import expected, given_threshold, verdicts
from patchcore_fast.cli.options import SCORED, check_loaded, chosen_config, given_settings
from patchcore_fast.cli.outputs import check_folder, check_outputs_differ, output_folder, writable_file
from patchcore_fast.cli.report import log_page
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.data import ImageSet
    from patchcore_fast.model import PatchCore


def _fit(config: PatchCoreConfig, images: Any, threshold: float | None) -> PatchCore:
    from patchcore_fast.model import PatchCore

    model = PatchCore(config)
    model.fit(images, on_error="return")
    if threshold is not None:
        model.decide(threshold=threshold)
    return model


def load_bank(args: argparse.Namespace) -> PatchCore:
    """The bank of `args`; device, batch size and workers may differ from those of the fit."""
    from patchcore_fast.model import PatchCore

    given = given_settings(args)
    share = given.pop("max_false_alarms", None)
    model = PatchCore.load(
        args.bank, given.pop("device", None), weights=given.pop("weights", None), allow_download=args.allow_download
    )
    model.rescore(**{name: given.pop(name) for name in SCORED if name in given})
    model.config = model.config.replace(**given)
    if (threshold := given_threshold(args)) is not None:
        model.decide(threshold=threshold)
    elif share is not None:
        model.decide(max_false_alarms=share)
    return model


def fit(args: argparse.Namespace) -> int:
    """Fit on a folder, save the bank, say what to do next. Images that cannot be read are left out and named."""
    config, threshold = chosen_config(args), given_threshold(args)
    output = writable_file(args.output)
    check_images(args.folder)
    need_pipeline()
    need_index(config.search.index)

    from patchcore_fast.data import scan

    images = scan(args.folder)
    if output.exists():
        check_outputs_differ({"--output": output}, [("training image", r.path) for r in images.train])
    model = _fit(config, images, threshold)
    model.save(output)
    print(_bank_text(model, len(images.train) - len(model.unread_)))
    print(f"Saved {output} ({output.stat().st_size / 1e6:.1f} MB).")
    if images.test:
        print(f"Next, its accuracy:   patchcore-fast evaluate {args.folder} --bank {output} --output report")
    else:
        print(f"{args.folder} has no test images, so there is nothing to measure accuracy on.")
    print(f"Next, heat maps:      patchcore-fast predict {output} IMAGES --output out")
    return tell(model.unread_)


def _bank_text(model: PatchCore, count: int) -> str:
    bank, (rows, dim) = model.bank, model.bank.features.shape
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in model.timings_.items())
    kept = f"{rows:,} of {bank.patches:,} patches of {dim} numbers kept"
    if bank.threshold is None:
        said = "No threshold: one image, or too few patches, says nothing about others. Set one with --threshold."
    else:
        said = f"Threshold {bank.threshold:.4g}: {expected(bank)}"
    return f"Fitted on {counted(count)}: {kept} ({spent}).\n{said}"


def counted(n: int) -> str:
    """1 image, 2 images."""
    return "1 image" if n == 1 else f"{n:,} images"


def evaluate(args: argparse.Namespace) -> int:
    """Measure on the test images of a folder; print a table, write JSON, plots and a contact sheet where asked."""
    given_threshold(args)
    if args.bank is None:
        config = chosen_config(args)
        need_index(config.search.index)
    else:
        check_loaded(args, "fitting, and --bank brings a fitted model")
        check_bank(args.bank)
    if args.log is not None:
        if args.output is None:
            raise DataError("--log: logs what --output DIR writes, and --output is not given")
        need_log(args.log)
    check_images(args.folder)
    json_file = None if args.json is None else writable_file(args.json)
    if args.output is not None:
        check_room(args.output)
    need_pipeline()

    from patchcore_fast.data import scan
    from patchcore_fast.report import metrics_table, write_json
    from patchcore_fast.report.gallery import write_evaluation
    from patchcore_fast.tracking import require

    if args.log is not None:
        require(args.log)  # before the long work: what is there need not work
    images = scan(args.folder)
    if not images.test:
        raise DataError(
            f"{args.folder}: no test images (wanted test/good and test/<defect>); use predict for images without labels"
        )
    _check_outputs(args, images)
    output = None if args.output is None else output_folder(args.output)
    model = load_bank(args) if args.bank is not None else _fit(config, images, given_threshold(args))
    result = model.evaluate(images, on_error="return")
    name = Path(args.folder).resolve().name
    unread = [(r["path"], r["error"]) for r in [*result.unread, *result.images] if r["error"]]
    row = {"scorer": model.config.scorer_name} | _headline(result.metrics) | _shots(model)
    print(metrics_table({name: row}, corner="folder"))
    print(verdicts(result.metrics, model.bank))
    if not any(r.label == 0 for r in images.test) or not any(r.label == 1 for r in images.test):
        print("AUROC needs normal (test/good) and anomalous test images; here is one class only.")
    if result.unread:
        print(
            f"{counted(len(result.unread))} could not be read: these numbers are of the other {len(result.images):,}."
        )
    problems = None
    if json_file is not None:
        write_json(json_file, result.to_dict() | {"data": images.summary.to_dict()})
        print(f"All numbers: {json_file}")
    if output is not None:
        problems = write_evaluation(output, name, images, result, model)
        print(f"Pictures and scores: {output}")
        if (output / "report.json").is_file():
            print(f"Next, one page to look at:  patchcore-fast report {output}")
            if args.log is not None:
                log_page(args.log, output)
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
        check_folder(args.output, [*json_file, *read], [("DIR", args.folder)])


def _shots(model: PatchCore) -> dict[str, str]:
    """A column for a bank that was made of few or of augmented images."""
    from patchcore_fast.model.fewshot import described

    text = described(model.bank.config)
    return {} if text == "all" else {"shots": text}


def _headline(metrics: dict[str, float]) -> dict[str, Any]:
    names = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO",
             "image_f1": "best F1"}  # fmt: skip
    return {text: float(metrics[key]) for key, text in names.items()} | {"images": int(metrics["n_test"])}
