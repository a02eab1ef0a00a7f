"""evaluate and train on a folder of categories: each is fitted and measured alike, whatever becomes of others."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from patchcore_fast.cli.explain import explain
from patchcore_fast.cli.finished import forget, identity, keep, kept
from patchcore_fast.cli.outputs import check_folder, check_outputs_differ, output_folder
from patchcore_fast.cli.process import PROGRAM, say
from patchcore_fast.cli.unusable import CODE, tell
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable
from patchcore_fast.report.problems import Problems, reason

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.data import ImageSet
    from patchcore_fast.model import PatchCore
    from patchcore_fast.report.categories import CategoryResult

_log = logging.getLogger(__name__)
PAGE = "report.html"


class Fitting(NamedTuple):
    """How each category gets its model.

    config : settings of all, a `PatchCoreConfig` or a `MethodConfig`.
    weights : fingerprint of the backbone's weights.
    fit : (images, the category's output folder, which exists) -> the model.
    files : what `fit` writes into that folder: without one of them a category counts as not finished.
    """

    config: Any
    weights: str
    fit: Callable[[ImageSet, Path], Any]
    files: tuple[str, ...] = ()


def evaluate_categories(
    config: PatchCoreConfig,
    decided: Mapping[str, float],
    root: Path,
    folders: Sequence[Path],
    output: Path,
    json_file: Path | None,
) -> int:
    """PatchCore on every category, see `each_category`."""
    from patchcore_fast.model import PatchCore

    built = PatchCore(config)
    weights = built.extractor.backbone.fingerprint()  # settings that no category could use end here

    def fit(images: ImageSet, _: Path) -> PatchCore:
        model = copy(built)  # one backbone for all; the bank is its own, and goes with it
        return model.fit(images, on_error="return")

    return each_category(Fitting(config, weights, fit), decided, root, folders, output, json_file)


def each_category(
    fitting: Fitting,
    decided: Mapping[str, float],
    root: Path,
    folders: Sequence[Path],
    output: Path,
    json_file: Path | None = None,
) -> int:
    """Every category into its own folder below `output`; the table on the screen and the index are of all.

    What a run that was ended has finished is taken from there. A category that fails has the reason in its row, and
    the others go on; exit code 3 then, and where files could not be used.
    """
    from patchcore_fast.report.categories import (
        CSV,
        INDEX,
        JSON,
        CategoryResult,
        results_dict,
        results_table,
        write_results,
    )
    from patchcore_fast.report.tables import write_json

    if json_file is not None:
        _check_json(json_file, folders, output)
    output_folder(output)
    name, settings = root.resolve().name, fitting.config.to_dict()
    rows = [CategoryResult(folder.name) for folder in folders]
    unread: list[tuple[str, str]] = []
    problems = Problems()
    write_results(output, name, rows, settings)
    for i, folder in enumerate(folders):
        clock = time.perf_counter()
        try:
            rows[i], files, said = _category(fitting, decided, folder, output / folder.name, problems)
            unread += files
        except Exception as error:  # whatever it is, it is of this category
            rows[i] = CategoryResult(folder.name, error=_reason(error, folder))
            said = f"failed: {rows[i].error}"
            _log.debug("%s failed", printable(folder.name), exc_info=True)
        write_results(output, name, rows, settings)
        print(
            f"[{i + 1}/{len(folders)}] {printable(folder.name)}: {said} ({time.perf_counter() - clock:.1f} s)",
            flush=True,
        )
    print(results_table(rows))
    print(f"Pages, pictures and scores: {output / INDEX}; numbers: {output / JSON}, {output / CSV}")
    if json_file is not None:
        write_json(json_file, results_dict(name, rows, settings))
        print(f"All numbers: {json_file}")
    failed = [row for row in rows if row.error is not None]
    if failed:
        say(f"{PROGRAM}: {len(failed):,} of {len(rows):,} categories failed:")
        for row in failed:
            say(f"  {printable(row.name)}: {row.error}")
    return max(tell(unread, problems), CODE if failed else 0)


def _check_json(json_file: Path, folders: Sequence[Path], output: Path) -> None:
    """DataError: it would fall on another output, or on a file of a category."""
    from patchcore_fast.report.categories import CSV, INDEX, JSON

    check_outputs_differ({"--json": json_file} | {f"{name} of --output": output / name for name in (JSON, CSV, INDEX)})
    place = json_file.resolve()
    for folder in folders:
        if place.is_relative_to(folder.resolve()) or place.is_relative_to((output / folder.name).resolve()):
            raise DataError(f"--json {json_file}: lies in the category {folder.name}, give another place")


def _category(
    fitting: Fitting, decided: Mapping[str, float], folder: Path, output: Path, problems: Problems
) -> tuple[CategoryResult, list[tuple[str, str]], str]:
    """Its row, the files that could not be used, and what to say of it."""
    from patchcore_fast.data import scan
    from patchcore_fast.data.categories import files_digest
    from patchcore_fast.report.categories import CategoryResult
    from patchcore_fast.report.gallery import write_evaluation
    from patchcore_fast.report.page import write_report

    made = identity(fitting.config, decided, fitting.weights, files_digest(folder))
    row, different = kept(output, made)
    if gone := [name for name in fitting.files if not (output / name).is_file()]:
        row, different = None, different or (f"its {gone[0]} is not there" if row is not None else "")
    page = f"{folder.name}/{PAGE}"
    if row is not None:
        found = CategoryResult(folder.name, row["metrics"], row["seconds"], page=_there(output.parent, page))
        files = [(path, why) for path, why in row["unread"]]
        return (
            found,
            files,
            f"{_said(found)}, taken from {printable(str(output))}: settings, weights and files are the same",
        )
    images = scan(folder)
    if not images.train or not images.test:
        raise DataError(f"{folder}: no {'training images (train/good)' if not images.train else 'test images'}")
    read = [("image", r.path) for r in [*images.train, *images.test]]
    read += [("mask", r.mask) for r in images.test if r.mask is not None]
    check_folder(str(output), read, [("a category", folder)])
    output_folder(output)
    forget(output)
    model = fitting.fit(images, output)
    if decided:
        model.decide(**decided)
    result = model.evaluate(images, on_error="return")
    mine = write_evaluation(output, folder.name, images, result, model)
    if (output / "report.json").is_file():
        with mine.attempt(PAGE):
            write_report(output)
    problems.failed += [(f"{folder.name}/{what}", why) for what, why in mine.failed]
    files = [(str(path), why) for path, why in model.unread_]
    files += [(r["path"], r["error"]) for r in [*result.unread, *result.images] if r["error"]]
    facts = result.to_dict()
    found = CategoryResult(folder.name, facts["metrics"], model.timings_ | facts["timings"],
                           page=_there(output.parent, page))  # fmt: skip
    if not mine.failed:  # else the next run tries again
        keep(output, made, {"metrics": found.metrics, "seconds": found.seconds, "unread": files})
    return found, files, _said(found) + (f", anew: {different}" if different else "")


def _there(folder: Path, page: str) -> str | None:
    return page if (folder / page).is_file() else None


def _said(row: CategoryResult) -> str:
    auroc = row.metrics.get("image_auroc")
    return "no AUROC, one class only" if auroc is None else f"image AUROC {auroc:.3f}"


def _reason(error: Exception, folder: Path) -> str:
    """In one line; also of what is no user's business, for the others go on. Where the category lies is not told."""
    text = explain(error) or reason(error)
    for place in (f"{folder}: ", f"{folder.parent}: ", f"{folder.parent}{os.sep}"):
        text = text.removeprefix(place)
    return text
