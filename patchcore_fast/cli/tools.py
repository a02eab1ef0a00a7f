"""The commands that need no data of the user: demo and doctor."""

from __future__ import annotations

import argparse

from patchcore_fast.cli.beforehand import need, need_pipeline


def demo(args: argparse.Namespace) -> int:
    """See `patchcore_fast.demo.run_demo`."""
    need_pipeline()
    need("skimage", "the demo needs scikit-image", "demo")

    from patchcore_fast.demo import run_demo

    run_demo(args.output, quick=args.quick, say=print)
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Print the findings; exit code 1 when the main job cannot run."""
    from patchcore_fast import doctor as checks
    from patchcore_fast.report.tables import to_json

    found = checks.collect()
    print(to_json(found) if args.json else checks.render(found))
    return 1 if found["problems"] else 0
