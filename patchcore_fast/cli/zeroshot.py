"""zeroshot: images without labels and without training images score each other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from patchcore_fast.cli.beforehand import check_images, check_room, need_pipeline
from patchcore_fast.cli.evaluate import headline
from patchcore_fast.cli.options import given_settings
from patchcore_fast.cli.outputs import check_folder, output_folder
from patchcore_fast.cli.pipeline import counted
from patchcore_fast.cli.predict import write_predictions
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.data import ImageSet
    from patchcore_fast.zeroshot import ZeroShot


def zeroshot(args: argparse.Namespace) -> int:
    """Write scores and heat maps as predict does; of a folder with test images also the metrics, as evaluate does."""
    from patchcore_fast.config import PatchCoreConfig

    config = PatchCoreConfig(**given_settings(args))
    need_pipeline()

    from patchcore_fast.data import scan, scan_images
    from patchcore_fast.data.categories import has_test
    from patchcore_fast.zeroshot import ZeroShot

    model = ZeroShot(config, degrees=args.degrees, share=args.share, group=args.group)  # says which option is wrong
    check_images(args.folder)
    check_room(args.output)
    images = scan(args.folder) if has_test(args.folder) else None
    records = scan_images(args.folder) if images is None else images.test
    read = [("image", r.path) for r in records]
    read += [("mask", r.mask) for r in records if r.mask is not None]
    check_folder(args.output, read, [("DIR", args.folder)])
    if len(records) < 2:
        raise DataError(f"{args.folder}: two images or more score each other, got {len(records)}")
    output = output_folder(args.output)
    if images is None:
        code = write_predictions(output, records, model.predict(records, on_error="return"), None)
    else:
        code = _labelled(args.folder, output, model, images)
    print(f"The images scored each other in {model.seconds_:.1f} s. Scores compare images of this run, not of others.")
    return code


def _labelled(folder: str, output: Path, model: ZeroShot, images: ImageSet) -> int:
    """Labels and masks measure the scores; they do not make them."""
    from patchcore_fast.report import metrics_table
    from patchcore_fast.report.gallery import write_evaluation

    name = Path(folder).resolve().name
    result = model.evaluate(images, on_error="return")
    print(metrics_table({name: {"scorer": "mutual"} | headline(result.metrics)}, corner="folder"))
    if images.train:
        print(f"{counted(len(images.train))} in train had no part in it.")
    problems = write_evaluation(output, name, images, result)
    print(f"Pictures and scores: {output}")
    if (output / "report.json").is_file():
        print(f"Next, one page to look at:  patchcore-fast report {output}")
    return tell([(r["path"], r["error"]) for r in [*result.unread, *result.images] if r["error"]], problems)
