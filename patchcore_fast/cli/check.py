"""check: what a folder or a list holds and what looks wrong, before anything is learned from it."""

from __future__ import annotations

import argparse


def check(args: argparse.Namespace) -> int:
    """Print the summary, of a meta.json that of each class; exit code 3 when something looks wrong, else 0."""
    from patchcore_fast.data.categories import find_categories
    from patchcore_fast.data.check import check_folder
    from patchcore_fast.data.meta import list_of
    from patchcore_fast.report.tables import to_json

    classes = [] if list_of(args.folder) is None else find_categories(args.folder)
    summaries = [check_folder(place) for place in classes or [args.folder]]
    if args.json:
        found = [summary.to_dict() for summary in summaries]
        print(to_json(found if classes else found[0]))
    else:
        print("\n".join(summary.text() for summary in summaries))
    return 3 if any(summary.warnings for summary in summaries) else 0
