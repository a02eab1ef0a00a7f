"""threshold: what a bank's threshold means, other values for it, and another one into the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from patchcore_fast.cli.beforehand import check_bank, need_pipeline
from patchcore_fast.cli.decision import expected
from patchcore_fast.cli.outputs import writable_file
from patchcore_fast.cli.sampling import bank_said
from patchcore_fast.errors import DataError

SHARES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)  # of false alarms, in the table


def threshold(args: argparse.Namespace) -> None:
    """Set VALUE, or the threshold of a share of false alarms; without either show what there is to choose from."""
    if args.value is not None and args.max_false_alarms is not None:
        raise DataError("VALUE and --max-false-alarms: one of both is wanted")
    look = args.value is None and args.max_false_alarms is None
    if look and args.output is not None:
        raise DataError("--output: there is nothing to write without VALUE or --max-false-alarms")
    check_bank(args.bank)
    output = None if look else writable_file(args.output or args.bank)
    need_pipeline()

    from patchcore_fast.layered_bank import load_bank
    from patchcore_fast.methods.file import method_of, read_model, write_model
    from patchcore_fast.model.threshold import with_threshold

    tensors: dict[str, Any] = {}
    bank: Any
    if method_of(args.bank) is None:
        bank = load_bank(args.bank)
    else:
        bank, tensors = read_model(args.bank)
    if output is None:
        print(_choices(bank))
        return
    changed = with_threshold(bank, threshold=args.value, max_false_alarms=args.max_false_alarms)
    if tensors:
        write_model(output, changed, tensors)
    else:
        changed.save(output)
    before = "none" if bank.threshold is None else f"{bank.threshold:.6g}"
    print(f"Threshold {changed.threshold:.6g} (was {before}) in {Path(output)}: {expected(changed)}")


def _choices(bank: Any) -> str:
    from patchcore_fast.methods.file import Learned
    from patchcore_fast.model.threshold import false_alarm_interval, held_out, with_threshold
    from patchcore_fast.report import metrics_table

    now = "No threshold" if bank.threshold is None else f"Threshold in use {bank.threshold:.6g}"
    lines = [
        f"{bank.config['method']}, {bank.fitted_on}." if isinstance(bank, Learned) else bank_said(bank),
        f"{now}: {expected(bank)}",
    ]
    scores = held_out(bank)
    if len(scores) > 1:
        rows = {}
        for share in SHARES:
            value = with_threshold(bank, max_false_alarms=share).threshold
            assert value is not None
            low, high = false_alarm_interval(scores, value) or (0.0, 1.0)
            rows[f"{100 * share:g} %"] = {"threshold": f"{value:.6g}", "held-out above": sum(s > value for s in scores),
                                          "interval": f"{100 * low:.1f} to {100 * high:.1f} %"}  # fmt: skip
        lines += ["", metrics_table(rows, corner="false alarms")]
    return "\n".join([*lines, "", "To change it:  patchcore-fast threshold BANK VALUE"])
