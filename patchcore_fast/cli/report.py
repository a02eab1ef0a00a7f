"""report: what evaluate wrote, as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from patchcore_fast.errors import DataError


def report(args: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
    from patchcore_fast.report.page import write_report

    if args.images < 1:
        raise DataError(f"--images must be at least 1, got {args.images}")
    output = None if args.output is None else writable_file(args.output)
    if output is not None:
        read = [("a file of the evaluation,", p) for p in Path(args.folder).rglob("*") if p.suffix != ".html"]
        check_outputs_differ({"--output": output}, read)
    path = write_report(args.folder, output, images=args.images)
    print(f"Open {path} in a browser ({path.stat().st_size / 1e6:.1f} MB, complete: it needs no other file).")
    if path.parent.resolve() != Path(args.folder).resolve():
        print(f"Single pictures stay in {args.folder}.")
