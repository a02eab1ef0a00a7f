"""train: another method than PatchCore on one set, or a model for each category; or a test of what is there."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_images, check_room, need_pipeline
from patchcore_fast.cli.decision import decided_text, given_thresholds
from patchcore_fast.cli.exclusion import add_exclude, check_exclude, refuse_exclude, training_set
from patchcore_fast.cli.extract import check_apart
from patchcore_fast.cli.grid import listed
from patchcore_fast.cli.method_options import add_method_options, chosen_method
from patchcore_fast.cli.options import add_download
from patchcore_fast.cli.outputs import check_outputs_differ, say_saved, writable_file
from patchcore_fast.cli.tracking import add_tracking, chosen_tracking
from patchcore_fast.cli.training import KEPT, MODEL, Training
from patchcore_fast.cli.unusable import tell
from patchcore_fast.config.methods import METHODS
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.config.methods import MethodConfig
    from patchcore_fast.config.tracking import TrackingSettings
    from patchcore_fast.data import ImageSet
    from patchcore_fast.methods.base import Method

BESIDE = ".training"  # behind the name of the model: the folder of its checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("method", nargs="?", choices=tuple(METHODS), metavar="METHOD",
                        help=f"{', '.join(METHODS)}; --config or --preset may say it instead")  # fmt: skip
    parser.add_argument("folder", metavar="DIR",
                        help="normal images, or MVTec layout (train/good); or such folders, a category each, or a "
                             "meta.json (docs/ader.md)")  # fmt: skip
    parser.add_argument("--output", metavar="OUT",
                        help="model to write (.safetensors); of several categories, or with --mode test, a folder for "
                             "models, tables and pages")  # fmt: skip
    parser.add_argument("--classes", type=listed(str), metavar="C,C", help="of many categories only these")
    parser.add_argument("--mode", choices=("train", "test"), default="train",
                        help="test: measure --checkpoint on the test images, without training")  # fmt: skip
    parser.add_argument("--checkpoint", metavar="FOLDER",
                        help=f"a checkpoint of every epoch and the curve go here, and an interrupted run goes on from "
                             f"there (default OUT{BESIDE}); with --mode test this, a model file, or the output folder "
                             "of several categories")  # fmt: skip
    parser.add_argument("--evaluate-every", type=int, metavar="N",
                        help="measure on the test images after every N epochs, for the curve; the model is that of the "
                             "last epoch all the same")  # fmt: skip
    add_exclude(parser)
    add_method_options(parser)
    add_tracking(parser, curves=True)
    add_download(parser)


def train(args: argparse.Namespace) -> int:
    """Train what DIR holds, save it, say what to do next; or test."""
    if args.mode == "test":
        from patchcore_fast.cli.train_test import test

        return test(args)
    if args.method is None and args.folder in METHODS and not Path(args.folder).exists():
        args.method, args.folder = args.folder, None
    config, decided = chosen_method(args), given_thresholds(args)
    if args.print_method:
        print(config.to_toml(), end="")
        return 0
    for name, given in (("DIR", args.folder), ("--output", args.output)):
        if given is None:
            raise DataError(f"{name} is wanted: patchcore-fast train {config.method} DIR --output model.safetensors")
    tracking = chosen_tracking(args)
    _check_training(args, config, tracking)
    check_images(args.folder)
    check_exclude(args)
    if args.checkpoint is not None:
        check_room(args.checkpoint)
    need_pipeline()

    from patchcore_fast.data.categories import find_categories

    found = find_categories(args.folder, None, args.classes)
    if args.classes is not None and len(found) == 1:
        args.folder, found = str(found[0]), []
    args.resumes = _has_epochs(config)  # what an end from outside says
    if found:
        check_room(args.output)
        found = find_categories(args.folder, args.output, args.classes)
        return _each(args, config, decided, tracking, found)
    return _one(args, config, decided, tracking, writable_file(args.output))


def _check_training(args: argparse.Namespace, config: MethodConfig, tracking: TrackingSettings) -> None:
    """DataError: options that do not go with the method."""
    if args.evaluate_every is not None and args.evaluate_every < 1:
        raise DataError(f"--evaluate-every must be at least 1, got {args.evaluate_every}")
    if not _has_epochs(config):
        for option, given in (("--checkpoint", args.checkpoint), ("--evaluate-every", args.evaluate_every),
                              ("--log", tracking.log)):  # fmt: skip
            if given is not None:
                raise DataError(f"{option}: {config.method} looks at the images once, there are no epochs")


def _one(
    args: argparse.Namespace,
    config: MethodConfig,
    decided: Mapping[str, float],
    tracking: TrackingSettings,
    output: Path,
) -> int:
    """A model of one set."""
    images, config = _images(args, config)
    lists = [] if args.exclude is None else [("--exclude", args.exclude)]
    check_outputs_differ({"--output": output}, [*lists, *(("training image", r.path) for r in images.train)])
    folder = None
    if _has_epochs(config):
        folder = Path(args.checkpoint or f"{output}{BESIDE}")
        check_room(str(folder))
        check_apart("--checkpoint", str(folder), images.train)
    name = images.summary.folder if images.layout == "list" else Path(args.folder).resolve().name
    training = Training(config, args.evaluate_every, tracking)
    model = training.fit(images, folder, name)
    if decided:
        model.decide(**decided)
    model.save(output)
    training.log_model(output)
    print(f"{model.said()} ({', '.join(f'{stage} {seconds:.1f} s' for stage, seconds in model.timings_.items())}).")
    print(decided_text(model.learned, "too few images were held out to say anything about others"))
    if text := training.text():
        print(text)
    say_saved(output, args.folder, bool(images.test))
    return tell(model.unread_, training.problems)


def _each(
    args: argparse.Namespace,
    config: MethodConfig,
    decided: Mapping[str, float],
    tracking: TrackingSettings,
    folders: list[Path],
) -> int:
    """A model for each category, all measured."""
    from patchcore_fast.cli.categories import Fitting, each_category
    from patchcore_fast.methods import make_method

    refuse_exclude(args, f"goes with one category; {args.folder} holds {len(folders):,}")
    if args.checkpoint is not None:
        raise DataError("--checkpoint: goes with one category; each of several has a folder of its own below --output")
    built: Any = make_method(config.method, config)
    weights = built.source.fingerprint()  # settings that no category could use end here

    def fit(images: ImageSet, place: Path) -> Method:
        training = Training(config, args.evaluate_every, tracking, built)
        model = training.fit(images, place / KEPT if _has_epochs(config) else None, place.name)
        if decided:
            model.decide(**decided)
        model.save(place / MODEL)
        training.log_model(place / MODEL)
        if text := training.text():
            print(text)
        return model

    output = Path(args.output)
    fitting = Fitting(config, weights, fit, (MODEL,))
    code = each_category(fitting, decided, Path(args.folder), folders, output)
    print(f"Models: {output / '<category>' / MODEL}")
    print(f"Next, heat maps:      patchcore-fast predict {output / folders[0].name / MODEL} IMAGES --output out")
    return code


def _images(args: argparse.Namespace, config: MethodConfig) -> tuple[ImageSet, MethodConfig]:
    """DataError: no training images, or none to test on where that was asked for."""
    from dataclasses import replace

    images, base = training_set(args, config.base)
    if not images.train:
        raise DataError(f"{args.folder}: no training images (train/good)")
    if args.evaluate_every is not None and not images.test:
        raise DataError(f"--evaluate-every: {args.folder} has no test images")
    return images, replace(config, base=base)


def _has_epochs(config: MethodConfig) -> bool:
    return hasattr(config.settings, "epochs")
