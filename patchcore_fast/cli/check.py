"""check: what a folder holds and what looks wrong, before anything is learned from it."""

from __future__ import annotations

import argparse


def check(args: argparse.Namespace) -> int:
    """Print the summary; exit code 3 when something looks wrong, 0 when nothing does."""
    from patchcore_fast.data.check import check_folder
    from patchcore_fast.report.tables import to_json

    summary = check_folder(args.folder)
    print(to_json(summary.to_dict()) if args.json else summary.text())
    return 3 if summary.warnings else 0
