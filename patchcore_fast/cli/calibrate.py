"""calibrate: both thresholds of a bank from good images that it was not fitted on, and perhaps some defects."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_bank, check_files, need_pipeline
from patchcore_fast.cli.decision import TARGETS, decided_text, rate
from patchcore_fast.cli.models import facts_of, load_model
from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.cli.pipeline import counted
from patchcore_fast.cli.unusable import NAMED, tell
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable

if TYPE_CHECKING:
    from patchcore_fast.model.calibration import Calibration


def calibrate(args: argparse.Namespace) -> int:
    """Score the images, choose, write the bank, and say what to expect. Files that cannot be read are named."""
    check_bank(args.bank)
    check_files([args.good] if args.defects is None else [args.good, args.defects])
    output = writable_file(args.output or args.bank)
    shares = {name: vars(args).pop(name) for name in TARGETS if hasattr(args, name)}  # not of the bank as it is
    need_pipeline()

    from patchcore_fast.data import scan_images

    good = scan_images(args.good)
    bad = None if args.defects is None else scan_images(args.defects)
    names = [{r.path.resolve() for r in part} for part in (good, bad or [])]
    if both := names[0] & names[1]:
        raise DataError(f"{min(both)}: is among GOOD and among --defects")
    check_outputs_differ({"--output": output}, [("image", path) for part in names for path in part])
    model = load_model(args)
    before = model.threshold
    try:
        said = model.calibrate(good, bad, on_error="return", **shares)
    except ValueError as error:
        raise DataError(str(error)) from error
    model.save(output)
    print(f"{counted(len(said.good))} scored; the threshold was {'none' if before is None else f'{before:.6g}'}.")
    print(_text(facts_of(model), said, (r.path for r in good)))
    print(f"Saved {output} ({output.stat().st_size / 1e6:.1f} MB).")
    return tell(said.unread)


def _text(facts: Any, said: Calibration, good: Iterable[Path]) -> str:
    lines = [decided_text(facts, "")]
    if said.balanced is not None:
        low, high = said.balanced.interval
        lines.append("There the share of defects found less the share of false alarms is largest "
                     f"(95 % interval of the threshold {low:.4g} to {high:.4g}).")  # fmt: skip
    if said.defects:
        missed = [pair for pair in said.defects if pair[1] <= facts.threshold]
        count = len(said.defects)
        found = count - len(missed)
        lines.append(f"{found:,} of {count:,} defective images found ({rate(found, count)}), {len(missed):,} missed"
                     f"{':' if missed else '.'}")  # fmt: skip
        lines += [f"  {printable(str(path))}, score {score:.4g}" for path, score in missed[:NAMED]]
        lines += [f"  and {len(missed) - NAMED:,} more"] if len(missed) > NAMED else []
    lines.append("These images chose the thresholds: expect a few more errors on others.")
    known = {path.name for path in good} & {name.rsplit("/", 1)[-1] for name in facts.images}
    if known:
        lines.append(f"{len(known):,} of GOOD have names of training images, as {printable(min(known))}: if they are "
                     "the same, the thresholds are too low, for the bank knows them.")  # fmt: skip
    return "\n".join(lines)
