"""fit, and what it shares with evaluate: from the arguments to the model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_images, check_room, need_index, need_pipeline
from patchcore_fast.cli.budget import budget_text
from patchcore_fast.cli.decision import TARGETS, decided_text, given_thresholds
from patchcore_fast.cli.exclusion import check_exclude, refuse_exclude, training_set
from patchcore_fast.cli.extract import check_apart, quiet_rank, stored_settings
from patchcore_fast.cli.indices import check_indices, picked
from patchcore_fast.cli.options import SCORED, chosen_config, given_settings
from patchcore_fast.cli.outputs import check_outputs_differ, say_saved, writable_file
from patchcore_fast.cli.sampling import report_table, sampler_said
from patchcore_fast.cli.together import joined
from patchcore_fast.cli.unusable import tell
from patchcore_fast.errors import DataError

GIVEN = ("The rows were given, and nobody wrote down what chose them: the threshold is by them without those of the "
         "image asked, and so rather too high than too low (docs/threshold.md).")  # fmt: skip

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.model import PatchCore


def fitted(
    config: PatchCoreConfig,
    images: Any,
    decided: Mapping[str, float],
    group: Any = None,
    store: str | None = None,
    sampler: Any = None,
) -> PatchCore:
    """A model fitted on the training images of a set; files that cannot be read are left out (`unread_`)."""
    from patchcore_fast.model import PatchCore

    model = PatchCore(config, sampler, group=group)
    model.fit(images, on_error="return", store=store)
    if decided:
        model.decide(**decided)
    return model


def load_bank(args: argparse.Namespace) -> PatchCore:
    """The bank of `args`; device, batch size and workers may differ from those of the fit."""
    from patchcore_fast.model import PatchCore

    model: PatchCore = prepared(args, PatchCore.load)
    return model


def prepared(args: argparse.Namespace, load: Callable[..., Any]) -> Any:
    """What `load` makes of the file `args.bank`, with the settings that were typed."""
    given = given_settings(args)
    wanted = {name: given.pop(name) for name in TARGETS if name in given} | given_thresholds(args)
    model = load(
        args.bank, given.pop("device", None), weights=given.pop("weights", None), allow_download=args.allow_download
    )
    model.rescore(**{name: given.pop(name) for name in SCORED if name in given})
    model.config = model.config.replace(**given)
    if wanted:
        model.decide(**wanted)
    return model


def fit(args: argparse.Namespace) -> int:
    """Fit on a folder or a store, save the bank, say what to do next.

    Images that cannot be read are left out and named. Of several ranks the first one writes and speaks.
    """
    config, decided = chosen_config(args), given_thresholds(args)
    output = writable_file(args.output)
    if (args.folder is None) == (args.features is None):
        raise DataError("fit: either DIR or --features STORE is wanted")
    if args.folder is None:
        return _fit_stored(args, output, decided)
    if args.indices is not None:
        raise DataError("--indices: goes with --features STORE, whose rows it numbers")
    check_images(args.folder)
    check_exclude(args)
    if args.store is not None:
        check_room(args.store)
    need_pipeline()
    need_index(config.search.index)
    rank = quiet_rank()

    images, config = training_set(args, config)
    if output.exists():
        lists = [] if args.exclude is None else [("--exclude", args.exclude)]
        check_outputs_differ({"--output": output}, [*lists, *(("training image", r.path) for r in images.train)])
    if args.store is not None:
        check_apart("--store", args.store, images.train)
    with joined(args.rank_timeout) as group:
        model = fitted(config, images, decided, group, args.store)
    if rank:
        return 0
    model.save(output)
    drawn = min(len(images.train), config.selection.shots or len(images.train))
    print(_bank_text(model, drawn - len(model.unread_), args.verbose))
    say_saved(output, args.folder, bool(images.test))
    return tell(model.unread_)


def _fit_stored(args: argparse.Namespace, output: Path, decided: Mapping[str, float]) -> int:
    refuse_exclude(args, "goes with DIR; extract --exclude leaves images out of a store")
    if args.store is not None:
        raise DataError("--store: goes with DIR, whose features it keeps; --features has them already")
    if args.indices is not None:
        check_indices(args.indices)
    need_pipeline()
    rank = quiet_rank()

    from patchcore_fast.feature_store import FeatureStore

    with FeatureStore(args.features) as store:
        config = stored_settings(args, store)
        sampler = None if args.indices is None else picked(args, config, store)
        need_index(config.search.index)
        shards = [(f"file of {args.features}", path) for path in Path(args.features).iterdir()]
        check_outputs_differ(
            {"--output": output}, [*shards, *([] if args.indices is None else [("--indices", args.indices)])]
        )
        with joined(args.rank_timeout) as group:
            model = fitted(config, store, decided, group, sampler=sampler)
        if rank:
            return 0
        model.save(output)
        print(_bank_text(model, len(store.images), args.verbose))
    if sampler is not None and sampler.recorded is None and model.threshold is not None and "threshold" not in decided:
        print(GIVEN)
    print(f"Saved {output} ({output.stat().st_size / 1e6:.1f} MB).")
    print(f"Next, heat maps:      patchcore-fast predict {output} IMAGES --output out")
    return tell(model.unread_)


def _bank_text(model: PatchCore, count: int, verbose: bool) -> str:
    bank = model.bank
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in model.timings_.items())
    each = [f"{len(part):,} of {bank.patches:,} patches of {part.width} numbers" for part in bank.parts]
    kept = f"{' and '.join(each)} kept"
    said = decided_text(bank, "one image, or too few patches, says nothing about others")
    size = "" if bank.size is None else f"\n{budget_text(bank.size)}"
    table = report_table(model.report_) if verbose else ""
    by = sampler_said(bank.config)
    return f"Fitted on {counted(count)}: {kept} by {by} ({spent}).\n{said}{size}" + (f"\n{table}" if table else "")


def counted(n: int) -> str:
    """1 image, 2 images."""
    return "1 image" if n == 1 else f"{n:,} images"
