"""compare: several methods on the same images, each cell of the table in a process of its own."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_images, check_room, need_pipeline
from patchcore_fast.cli.options import add_group, given_settings
from patchcore_fast.cli.outputs import output_folder
from patchcore_fast.cli.process import PROGRAM, say
from patchcore_fast.cli.unusable import CODE, tell
from patchcore_fast.comparison.plan import BANKS, METHODS, MOST_SEEDS, Cell, Entry, cells, checked_names, entries
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from patchcore_fast.comparison.run import Done

DEFAULT = ",".join((*BANKS, "padim", "subspace"))  # what has no long training
SHARED = ("backbone", "layers", "weights", "image_size", "crop", "aspect")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.set_defaults(resumes=True)
    parser.add_argument("folder", metavar="DIR", help="MVTec layout; or a folder of such folders, a set each")
    parser.add_argument("--output", required=True, metavar="OUT",
                        help="folder for index.html, results.json, results.csv, pictures; an interrupted run goes on "
                             "there")  # fmt: skip
    parser.add_argument("--methods", default=DEFAULT, metavar="M,M",
                        help=f"of {', '.join((*BANKS, *METHODS))}; anomalib:NAME where anomalib is installed "
                             "(default %(default)s)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, metavar="N",
                        help="each method with seeds 0 to N - 1 (default %(default)s)")  # fmt: skip
    parser.add_argument("--epochs", type=int, metavar="N", help="of methods that are trained (default: their own)")
    parser.add_argument("--config", dest="configs", action="append", default=[], metavar="METHOD=FILE.toml",
                        help="settings of one method; as often as wanted")  # fmt: skip
    add_group(parser, "features", SHARED, "of all methods, over their own defaults and files")
    add_group(parser, "running")


def compare(args: argparse.Namespace) -> int:
    """Measure what is not there yet, write tables, pictures and the page, print the table."""
    names = checked_names(args.methods)
    if not 1 <= args.seeds <= MOST_SEEDS:
        raise DataError(f"--seeds must be 1 to {MOST_SEEDS}, got {args.seeds}")
    if args.epochs is not None and args.epochs < 1:
        raise DataError(f"--epochs must be at least 1, got {args.epochs}")
    methods = entries(names, _files(args.configs), given_settings(args), args.epochs)
    check_images(args.folder)
    check_room(args.output)
    need_pipeline()

    from patchcore_fast.data.categories import find_categories, has_test

    sets = find_categories(args.folder, args.output)
    if not sets and not has_test(args.folder):
        raise DataError(f"{args.folder}: no test images (wanted test/good and test/<defect>), so there is nothing to "
                        "compare by")  # fmt: skip
    plan = cells(sets or [Path(args.folder)], methods, range(args.seeds))
    output = output_folder(args.output)
    done = _measured(plan, methods, output, Path(args.folder).resolve().name)

    from patchcore_fast.comparison.table import lines_of, text_of

    print(text_of(lines_of(plan, done)))
    print(f"Numbers: {output / 'results.json'}, {output / 'results.csv'}")
    print(f"Next, the page with all of it: {output / 'index.html'}")
    failed = sum(each.error is not None for each in done)
    if failed:
        say(f"{PROGRAM}: {failed:,} of {len(done):,} cells failed; the same command tries them again")
    unread = dict.fromkeys(f"{each.cell.set}/{name}" for each in done for name in each.record.get("unread", ()))
    return max(tell((name, name) for name in unread), CODE if failed else 0)


def _files(given: Sequence[str]) -> dict[str, str]:
    """METHOD=FILE, each method once. DataError: something else."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, file = text.partition("=")
        if not sign or not file or name in found:
            raise DataError(f"--config: METHOD=FILE.toml is wanted, a method once, got {text!r}")
        found[name] = file
    return found


def _measured(plan: Sequence[Cell], methods: Sequence[Entry], output: Path, name: str) -> list[Done]:
    """All cells; the table is written after each, the page after each set."""
    from patchcore_fast.comparison.publish import publish
    from patchcore_fast.comparison.run import run
    from patchcore_fast.comparison.table import write_table

    done: list[Done] = []
    clock = time.perf_counter()

    def begin(cell: Cell) -> None:
        nonlocal clock
        clock = time.perf_counter()
        print(f"[{len(done) + 1}/{len(plan)}] {printable(cell.said)}: ", end="", flush=True)

    write_table(output, name, plan, done, methods)
    for each in run(plan, methods, output, begin):
        done.append(each)
        if each.kept:
            print(f"[{len(done)}/{len(plan)}] {printable(each.cell.said)}: {_said(each.record)}, taken from {output}")
        else:
            print(f"{_said(each.record)} ({time.perf_counter() - clock:.1f} s)", flush=True)
        write_table(output, name, plan, done, methods)
        if len(done) == len(plan) or plan[len(done)].set != each.cell.set:
            publish(output, name, plan, done, methods)
    return done


def _said(record: Any) -> str:
    if record["error"] is not None:
        return f"failed: {printable(record['error'])}"
    auroc = record["metrics"]["image_auroc"]
    return ("no AUROC, one class only" if auroc is None else f"image AUROC {auroc:.3f}") + (
        f", trained in {record['train_s']:.1f} s, {record['image_ms']:.1f} ms an image"
    )
