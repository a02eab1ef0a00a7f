"""threshold: what a bank's thresholds mean, other values for them, and others into the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from patchcore_fast.cli.beforehand import check_bank, need_pipeline
from patchcore_fast.cli.decision import TARGETS, expected, expected_pixels, given_thresholds, percent
from patchcore_fast.cli.outputs import writable_file
from patchcore_fast.cli.sampling import bank_said
from patchcore_fast.errors import DataError

SHARES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)  # of false alarms, in the table
PIXELS = (0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)  # of false pixels


def threshold(args: argparse.Namespace) -> None:
    """Set thresholds, or those of a share of false alarms and pixels; without any show what there is to choose from."""
    if args.value is not None:
        if hasattr(args, "threshold"):
            raise DataError("VALUE and --image-threshold: one of both is wanted")
        args.threshold = args.value
    wanted = given_thresholds(args) | {name: getattr(args, name) for name in TARGETS if hasattr(args, name)}
    if not wanted and args.output is not None:
        raise DataError("--output: there is nothing to write without a threshold or a share")
    check_bank(args.bank)
    output = writable_file(args.output or args.bank) if wanted else None
    need_pipeline()

    from patchcore_fast.layered_bank import load_bank
    from patchcore_fast.methods.file import method_of, read_model, write_model
    from patchcore_fast.model.decision import with_thresholds

    tensors: dict[str, Any] = {}
    bank: Any
    if method_of(args.bank) is None:
        bank = load_bank(args.bank)
    else:
        bank, tensors = read_model(args.bank)
    if output is None:
        print(_choices(bank))
        return
    changed = with_thresholds(bank, **wanted)
    if tensors:
        write_model(output, changed, tensors)
    else:
        changed.save(output)
    kinds = (("Threshold", "threshold", TARGETS[0], expected),
             ("Pixel threshold", "pixel_threshold", TARGETS[1], expected_pixels))  # fmt: skip
    for name, field, share, says in kinds:
        before, now = getattr(bank, field), getattr(changed, field)
        if field in wanted or share in wanted:
            was = "none" if before is None else f"{before:.6g}"
            print(f"{name} {now:.6g} (was {was}) in {Path(output)}: {says(changed)}")


def _choices(bank: Any) -> str:
    from patchcore_fast.methods.file import Learned
    from patchcore_fast.model.decision import with_thresholds
    from patchcore_fast.model.pixels import false_pixel_interval, shares_above
    from patchcore_fast.model.threshold import false_alarm_interval
    from patchcore_fast.report import metrics_table

    value, level = bank.threshold, bank.pixel_threshold
    lines = [
        f"{bank.config['method']}, {bank.fitted_on}." if isinstance(bank, Learned) else bank_said(bank),
        f"{'No threshold' if value is None else f'Threshold in use {value:.6g}'}: {expected(bank)}",
        f"{'No pixel threshold' if level is None else f'Pixel threshold in use {level:.6g}'}: {expected_pixels(bank)}",
    ]
    scores, maps = bank.normal_scores, bank.normal_pixels
    if scores is not None and len(scores) > 1:
        rows = {}
        for share in SHARES:
            limit = with_thresholds(bank, max_false_alarms=share).threshold
            low, high = false_alarm_interval(scores.tolist(), limit) or (0.0, 1.0)
            rows[f"{100 * share:g} %"] = {"threshold": f"{limit:.6g}", "images above": int((scores > limit).sum()),
                                          "interval": f"{100 * low:.1f} to {100 * high:.1f} %"}  # fmt: skip
        lines += ["", metrics_table(rows, corner="false alarms")]
    if maps is not None and len(maps) > 1:
        rows = {}
        for share in PIXELS:
            limit = with_thresholds(bank, max_false_pixels=share).pixel_threshold
            low, high = false_pixel_interval(maps, limit) or (0.0, 1.0)
            rows[f"{100 * share:g} %"] = {"pixel threshold": f"{limit:.6g}",
                                          "pixels above": percent(shares_above(maps, limit).mean()),
                                          "interval": f"{percent(low)} to {percent(high)}"}  # fmt: skip
        lines += ["", metrics_table(rows, corner="false pixels")]
    lines += ["", "To change them:  patchcore-fast threshold BANK --max-false-alarms 1/200 --max-false-pixels 0.1%",
              "or by values:    patchcore-fast threshold BANK --image-threshold X --pixel-threshold X"]  # fmt: skip
    return "\n".join(lines)
