"""bench-samplers: a quick look at all samplers on some rows of a feature matrix."""

from __future__ import annotations

import argparse
import csv

from patchcore_fast.cli.outputs import check_outputs_differ, writable_file
from patchcore_fast.config.running import device
from patchcore_fast.errors import DataError
from patchcore_fast.files import atomic_write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("features", metavar="FEATURES",
                        help="2-D rows: .npy, .safetensors, a folder of these, or what extract wrote")  # fmt: skip
    parser.add_argument("--rows", type=int, default=2000, metavar="N",
                        help="rows that are drawn of it, without their order (default %(default)s)")  # fmt: skip
    parser.add_argument("--ratio", type=float, default=0.1, metavar="R",
                        help="part of these that is picked (default %(default)s)")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the table here, as JSON")
    parser.add_argument("--csv", metavar="FILE", help="write the table here, as CSV")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the rows and the samplers")
    parser.add_argument("--device", type=device, default="cpu", metavar="D", help="cpu, cuda, ...; default cpu")


def bench_samplers(args: argparse.Namespace) -> None:
    """Draw rows, run each sampler three times, print the table."""
    if args.rows < 2:
        raise DataError(f"--rows must be at least 2, got {args.rows}")
    if not 0 < args.ratio < 1:
        raise DataError(f"--ratio must lie in (0, 1), got {args.ratio}")
    if not 0 <= args.seed < 2**32:
        raise DataError(f"--seed must lie in 0..2**32 - 1, got {args.seed}")
    outputs = {"--json": args.json, "--csv": args.csv}
    check_outputs_differ(outputs, [("FEATURES", args.features)])
    json_file, csv_file = (None if name is None else writable_file(name) for name in outputs.values())

    from patchcore_fast.cli.select import read_features

    with read_features(args.features) as file:
        import numpy as np
        import torch

        from patchcore_fast.experiments.quick import COLUMNS, drawn_rows, quick_look

        total, dim = file.shape
        rows = np.asarray(file.take(drawn_rows(total, args.rows, args.seed)), dtype=np.float32)
    if not np.isfinite(rows).all():
        raise DataError(f"{args.features}: {int((~np.isfinite(rows).all(1)).sum()):,} of {len(rows):,} rows that were "
                        "drawn are not finite")  # fmt: skip
    if int(len(rows) * args.ratio) == 0:
        raise DataError(f"--ratio {args.ratio} of {len(rows):,} rows keeps none")
    table = quick_look(torch.from_numpy(rows), args.ratio, seed=args.seed, device=args.device)

    from patchcore_fast.report import metrics_table, write_json

    if json_file is not None:
        facts = {"of": total, "rows": len(rows), "dim": dim, "ratio": args.ratio, "seed": args.seed, "samplers": table}
        write_json(json_file, facts)
    if csv_file is not None:
        with atomic_write(csv_file, "w", encoding="utf-8", newline="") as f:
            lines = csv.writer(f, lineterminator="\n")
            lines.writerow(COLUMNS)
            lines.writerows([["" if row[c] is None else row[c] for c in COLUMNS] for row in table])
    heads = {c: c.replace("_", " ").replace(" mb", " MB") for c in COLUMNS[1:-1]}
    shown = {row["sampler"]: {head: row[c] for c, head in heads.items()} for row in table}
    print(f"{len(rows):,} of {total:,} rows of {dim} numbers, {args.ratio:g} of them picked; seconds are medians of 3.")
    print(metrics_table(shown, digits=4, corner="sampler"))
    for row in table:
        if row["note"]:
            print(f"{row['sampler']}: {row['note']}")
