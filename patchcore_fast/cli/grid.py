"""grid: weights, starting points, noise and pools of the composite sampler against each other; or step by step."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.cli.beforehand import check_images, check_room, need_pipeline
from patchcore_fast.cli.exclusion import add_exclude, check_exclude, training_set
from patchcore_fast.cli.options import add_config, add_group, chosen_config
from patchcore_fast.cli.outputs import output_folder
from patchcore_fast.config import GROUPS
from patchcore_fast.config.base import settings_of
from patchcore_fast.errors import DataError

if TYPE_CHECKING:
    from patchcore_fast.experiments.run import Outcome

BACKBONE = {f.name: f.metadata["help"] for f in settings_of(GROUPS["features"])}
PICTURES = {"grid": ("time.png", "size.png", "parallel.png"), "steps": ("steps.png",)}
TOP = 10  # settings in the printed table
SHOWN = {"choice": "AUROC", "auroc": "image", "pixel_auroc": "pixel", "pixel_ap": "pixel AP", "iou": "IoU",
         "covering_radius": "radius", "border_share": "border", "seconds": "seconds", "test_auroc": "test image",
         "test_pixel_auroc": "test pixel"}  # fmt: skip


def listed(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """`1,2,3` as a tuple."""

    def values(text: str) -> tuple[Any, ...]:
        return tuple(kind(part.strip()) for part in text.split(","))

    values.__name__ = f"comma-separated {kind.__name__}"  # in argparse's message
    return values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    # "--weights -1,0,1" is a value and no option: argparse asks this pattern, which knows single numbers only.
    parser._negative_number_matcher = re.compile(r"-[\d.][\d.,eE\s-]*")
    parser.set_defaults(resumes=True)
    parser.add_argument("folder", metavar="DIR", help="normal images, or MVTec layout")
    parser.add_argument("--output", required=True, metavar="OUT",
                        help="folder for tables, pictures, best.toml; an interrupted run goes on there")  # fmt: skip
    parser.add_argument("--steps", action="store_true",
                        help="step by step in place of a grid: no coreset, random, approximate and exact greedy, "
                             "composite, and this with one change at a time")  # fmt: skip
    parser.add_argument("--weights", dest="signal_weights", type=listed(float), default=(-1.0, 0.0, 0.5, 1.0),
                        metavar="W,W", help="of each signal: w_repr, w_density, w_unc (default -1,0,0.5,1); those of "
                        "the network are --backbone-weights here")  # fmt: skip
    parser.add_argument("--starting-points", type=listed(int), default=(10, 30, 100), metavar="N,N",
                        help="random anchors of the density (default 10,30,100)")  # fmt: skip
    parser.add_argument("--noise", type=listed(int), default=(0, 1, 2), metavar="N,N",
                        help="noisy copies of each row, 0 for none (default 0,1,2)")  # fmt: skip
    parser.add_argument("--pools", type=listed(str), default=("composite", "diversity"), metavar="P,P",
                        help="composite (best by score), diversity (greedy's first picks), refined (best of these); "
                        "default composite,diversity")  # fmt: skip
    parser.add_argument("--ratio", dest="ratios", type=float, nargs="+", metavar="R",
                        help="parts of the patches that banks keep (default 0.01)")  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="try N settings of the grid, drawn by --seed")
    parser.add_argument("--seeds", type=listed(int), metavar="N,N", help="of the samplers (default: --seed alone)")
    parser.add_argument("--held-out", type=float, default=0.25, metavar="S",
                        help="share of the training images that stay out of banks (default %(default)s)")  # fmt: skip
    add_exclude(parser)
    add_config(parser)
    found = add_group(parser, "features", [name for name in BACKBONE if name != "weights"])
    found.add_argument("--backbone-weights", dest="weights", default=argparse.SUPPRESS, metavar="W",
                       help=BACKBONE["weights"])  # fmt: skip
    add_group(parser, "selection", ["seed"])
    add_group(parser, "search")
    add_group(parser, "scoring")
    add_group(parser, "running")


def grid(args: argparse.Namespace) -> int:
    """Try everything that is not there yet, write tables and pictures, print the best and the base lines."""
    if not 0 < args.held_out < 1:
        raise DataError(f"--held-out must lie in (0, 1), got {args.held_out}")
    config = chosen_config(args)
    check_images(args.folder)
    check_exclude(args)
    check_room(args.output)

    from patchcore_fast.experiments.combinations import grid as settings
    from patchcore_fast.experiments.combinations import steps

    s = config.selection
    ratios, seeds = args.ratios or [0.01 if s.ratio is None else s.ratio], args.seeds or (s.seed % 2**32,)
    if args.steps:
        asked, plan = 0, steps(ratios, seeds)
    else:
        axes = args.signal_weights, args.starting_points, args.noise, args.pools
        plan, asked = settings(*axes, ratios, seeds, args.limit, s.seed)
    need_pipeline()

    from patchcore_fast.experiments.material import check_config
    from patchcore_fast.experiments.run import run

    check_config(config)
    images, config = training_set(args, config)
    if not images.train:
        raise DataError(f"{args.folder}: no training images (train/good)")
    output, kind = output_folder(args.output), "steps" if args.steps else "grid"
    outcome = run(kind, images, config, plan, output, share=args.held_out)
    _write(kind, output, images.root.resolve().name, outcome, asked)
    print(_text(kind, outcome, asked))
    written = ", ".join(name for name in (f"{kind}.csv", f"{kind}.json", *PICTURES[kind]) if (output / name).exists())
    print(f"In {output}: {written}.")
    if outcome.best is not None:
        print(f"Next, a bank by it: patchcore-fast fit {args.folder} --config {output / 'best.toml'} "
              "--output bank.safetensors")  # fmt: skip
    return 3 if any(row["error"] for row in outcome.rows) else 0


def _write(kind: str, output: Path, name: str, outcome: Outcome, asked: int) -> None:
    from patchcore_fast.report import experiments as pictures
    from patchcore_fast.report import write_json

    best, rows = outcome.best, outcome.rows
    facts: dict[str, Any] = {"about": outcome.about, "rows": rows}
    if kind == "grid":
        facts["settings_asked_for"] = asked
        facts["best"] = None if best is None else {"name": best.combination.name, "value": best.value,
                                                   "options": dict(best.combination.options),
                                                   "sentence": best.sentence}  # fmt: skip
    write_json(output / f"{kind}.json", facts)
    done = [row for row in rows if row["choice"] is not None]
    chosen: dict[str, Any] = {} if best is None else {"best": best.combination.name}
    if kind == "steps":
        if done:
            pictures.plot_steps(rows, output / "steps.png", title=f"{name}: step by step")
        return
    if done:
        pictures.plot_against_time(rows, output / "time.png", **chosen, title=f"{name}: accuracy against time")
    if len({row["rows"] for row in done}) > 1:
        pictures.plot_against_size(rows, output / "size.png", **chosen, title=f"{name}: accuracy against bank size")
    if best is not None:
        pictures.plot_parallel(rows, output / "parallel.png", **chosen, title=f"{name}: settings and accuracy")


def _text(kind: str, outcome: Outcome, asked: int) -> str:
    """The table of the best settings and the base lines, and the sentence of the choice."""
    from patchcore_fast.report import metrics_table

    rows, about = outcome.rows, outcome.about
    failed = [row for row in rows if row["error"]]
    held, copies = len(about["held_out"]), about["synthetic"] * len(about["held_out"])
    lines = [
        f"{len(rows):,} rows ({outcome.fresh:,} of them new), of banks of {about['train']:,} training images.",
        f"{held:,} normal images held out, {copies:,} copies with synthetic defects; {about['test']:,} test images, "
        "which decide nothing.",
    ]
    if kind == "grid":
        different = len({row["name"] for row in rows if row["sampler"] == "composite"})
        lines.append(f"{different:,} settings of the {asked:,} that the axes span, many of which are the same.")
    done = [row for row in rows if row["choice"] is not None]
    bases = [row for row in done if row["sampler"] != "composite"]
    tried = [row for row in done if row["sampler"] == "composite"]
    shown = done
    if kind == "grid":
        shown = sorted(tried, key=lambda row: (-row["choice"], -row["pixel_ap"]))[:TOP] + bases
    several = len({(row["ratio"], row["seed"]) for row in rows if row["sampler"] != "identity"}) > 1
    table = {}
    for row in shown:
        label = row["name"] + (f" {row['ratio']:g} seed {row['seed']}" if several else "")
        table[label] = {heading: row[column] for column, heading in SHOWN.items()}
    if table:
        corner = "w_repr/w_density/w_unc, others" if kind == "grid" else "step"
        lines += ["", metrics_table(table, digits=4, corner=corner), ""]
    lines += [f"{row['name']}: could not be done: {row['error']}" for row in failed[:TOP]]
    if outcome.best is not None:
        lines += textwrap.wrap(f"Best: {outcome.best.sentence}", 118)
    return "\n".join(lines)
