"""watch: a folder whose new images are scored as they come, a line of JSON each."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_bank, check_room, need, need_pipeline
from patchcore_fast.cli.decision import given_thresholds
from patchcore_fast.cli.explain import is_out_of_memory
from patchcore_fast.cli.options import SCORED, add_download, add_group, add_threshold
from patchcore_fast.cli.outputs import check_folder, output_folder
from patchcore_fast.cli.process import PROGRAM, flush, postponed, say
from patchcore_fast.cli.unusable import CODE
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable

if TYPE_CHECKING:
    from patchcore_fast.watch import Watch

WAYS = ("link", "copy", "move", "none")  # watch.placing's (a test compares)
FILLED = ("normal", "anomalous", "unreadable", "heatmaps")  # folders of OUT that images are put into
PORT, PORTS = 8765, 65_535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.set_defaults(resumes=True)
    parser.add_argument("bank", metavar="BANK", help="file written by fit, train or export")
    parser.add_argument("folder", metavar="IN", help="folder to watch, with its sub-folders")
    parser.add_argument(
        "--output", required=True, metavar="OUT",
        help="folder for scores.csv, the journal, and the folders normal, anomalous and unreadable; the same command "
             "goes on from there, and scores no file twice",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="score what is there, and end")
    parser.add_argument(
        "--folders", choices=WAYS, default="link",
        help="how an image gets into the folder of its verdict: a hard link, which leaves it in IN and takes no room "
             "(default; a copy where there are no links), copy, move, or not at all",
    )  # fmt: skip
    parser.add_argument("--heatmaps", action="store_true", help="draw heat maps of anomalous images to OUT/heatmaps")
    parser.add_argument(
        "--page", nargs="?", type=int, const=PORT, metavar="PORT",
        help=f"show the last images, scores and drift on a local page (port {PORT}; 0: any)",
    )  # fmt: skip
    parser.add_argument(
        "--page-address", default="127.0.0.1", metavar="A",
        help="address of the page (default %(default)s: this machine alone; it has no password)",
    )  # fmt: skip
    parser.add_argument(
        "--poll", type=float, metavar="S", help="look every S seconds, for a network drive, which tells of no file"
    )
    parser.add_argument(
        "--settle", type=float, default=0.5, metavar="S",
        help="a file that was not closed or moved here counts as whole when it did not change for so many seconds "
             "(default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=int, default=1000, metavar="N",
        help="say latency and drift on standard error after every N images (default %(default)s)",
    )  # fmt: skip
    add_group(parser, "features", ["weights"])
    add_group(parser, "scoring", SCORED, "other than the fit's: there is then no threshold")
    add_threshold(parser, "other than the bank's")
    add_group(parser, "running", ["batch_size", "device"])
    add_download(parser)


def watch(args: argparse.Namespace) -> int:
    """Watch until Ctrl-C or SIGTERM, which wait for the images in hand, or with --once until all are done."""
    _check(args)

    from patchcore_fast.cli.models import facts_of, load_runnable, model_said  # which import NumPy

    model = load_runnable(args)
    model.progress = False  # one bar a batch
    if model.threshold is None and (args.folders != "none" or args.heatmaps):
        ways = "--threshold, or --folders none" + (" without --heatmaps" if args.heatmaps else "")
        raise DataError(f"{args.bank}: has no threshold, so there are no verdicts: give {ways}")
    output = output_folder(args.output)

    from patchcore_fast.export import ExportedModel
    from patchcore_fast.model.threshold import held_out
    from patchcore_fast.watch import Options, Watch

    options = Options(Path(args.folder), output, args.once, args.poll, args.settle, args.folders, args.heatmaps,
                      args.page is not None)  # fmt: skip
    with postponed() as stopped:
        normal = [] if isinstance(model, ExportedModel) else held_out(facts_of(model))  # a file has thresholds alone
        watching = Watch(model, options, normal, emit=_emit, warn=_warn, stopped=stopped,
                         bearable=is_out_of_memory)  # fmt: skip
        page = None
        try:
            say(model_said(model))
            if args.page is not None:
                from patchcore_fast.watch.server import Page

                title = Path(os.path.realpath(args.folder)).name
                page = Page(watching.recent, title, watching.find, args.page_address, args.page)
                say(f"{PROGRAM}: page {page.url}")
            due = args.every
            for count in watching.run():
                if count >= due:
                    due = count - count % args.every + args.every
                    say(f"{PROGRAM}: {_said(watching, args.every)}")
        finally:
            if page is not None:
                page.close()
            watching.close()
        say(f"{PROGRAM}: {_said(watching)}")
        return _end(watching, output)


def _check(args: argparse.Namespace) -> None:
    """What can be told before the long imports."""
    given_thresholds(args)
    for name, value, least in (("--poll", args.poll, 0.0), ("--settle", args.settle, 0.0), ("--every", args.every, 1)):
        if value is not None and not (math.isfinite(value) and value >= least and (value > 0 or name != "--poll")):
            raise DataError(f"{name} must be {'above' if name == '--poll' else 'at least'} {least:g}, got {value:g}")
    if args.page is not None and not 0 <= args.page <= PORTS:
        raise DataError(f"--page must be a port from 0 to {PORTS}, got {args.page}")
    check_bank(args.bank)
    if not os.path.isdir(args.folder):
        raise DataError(f"{Path(args.folder)}: {'not a folder' if os.path.exists(args.folder) else 'no such folder'}")
    check_room(args.output)
    check_folder(args.output, [("the bank", args.bank)], [("IN", args.folder)])
    for name in FILLED:
        if Path(os.path.realpath(args.folder)).is_relative_to(os.path.realpath(os.path.join(args.output, name))):
            raise DataError(f"--output {args.output}: puts images where IN {args.folder} is, give another one")
    need_pipeline()
    if args.poll is None and not args.once:
        need("watchdog", "watch needs watchdog (or --poll)", "watch")


def _emit(lines: list[dict[str, Any]]) -> None:
    """On standard output, and out of its buffer."""
    print("\n".join(json.dumps(line, allow_nan=False) for line in lines))
    flush()


def _warn(text: str) -> None:
    say(f"{PROGRAM}: {printable(text)}")


def _said(watching: Watch, last: int | None = None) -> str:
    """Counts of this run, latency of the last images or of all, and drift where there is some."""
    from patchcore_fast.watch.drift import Drift

    found = watching.recent.latency() if last is None else watching.recent.latency(last)
    latency = ", ".join(f"{name} {1000 * value:,.0f} ms" for name, value in found.items())
    parts = [f"{watching.scored:,} images, of these {watching.unread:,} unreadable"]
    parts += [f"latency {latency}"] if latency else []
    drift = watching.recent.drift()
    parts += [drift.said()] if isinstance(drift, Drift) and drift.has_drifted else []
    return "; ".join(parts)


def _end(watching: Watch, output: Path) -> int:
    """What could not be used, and the exit code."""
    if watching.gone:
        say(f"{PROGRAM}: {watching.gone:,} of the files went before they could be read")
    if watching.unread:
        table = printable(output / "scores.csv")
        say(f"{PROGRAM}: {watching.unread:,} of the files could not be used; {table} says why")
    if watching.problems:
        say(f"{PROGRAM}: {watching.problems:,} of the outputs could not be written, the scores are complete")
    return CODE if watching.unread or watching.gone or watching.problems else 0
