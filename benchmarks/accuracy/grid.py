"""Accuracy of coreset selections on image folders: samplers x bank sizes x contaminations x seeds x backbones.

    python -m benchmarks.accuracy.grid --quick mvtec/bottle mvtec/screw
    python -m benchmarks.accuracy.grid DATA... --ablations --json benchmarks/results/NAME/accuracy.json --resume
    python -m benchmarks.accuracy.grid DATA... --dry-run

DATA are folders in MVTec AD's layout. Features are extracted once per set and backbone; every cell of the grid then
selects a bank from them, searches, and measures image AUROC and AP, pixel AUROC and AP, and AUPRO with bootstrap
intervals (bootstrap.py), the time of the selection and its memory (cells.select). Contamination moves
defect images into training and removes them from the test (sets.draw). The seed is that of the sampler and of
that draw. `benchmarks/pages/render.py` writes docs/accuracy.md from the JSON.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import bootstrap, cells, samplers, sets, summary
from benchmarks.accuracy.store import Cell, Store, key
from benchmarks.harness import records
from benchmarks.harness.environment import describe
from benchmarks.pages import accuracy as page
from benchmarks.pages import accuracy_plots
from patchcore_fast.model import PatchCoreConfig

BARE = " bare"


def plan(args: argparse.Namespace, truths: list[sets.Truth]) -> list[Cell]:
    """The cells of the grid, in order: those to be compared stand next to each other."""
    return [
        {"set": truth.name, "backbone": backbone, "seed": seed, "share": share, "bank": bank, "sampler": sampler}
        for truth in truths
        for backbone in args.backbones
        for seed in args.seeds
        for share in args.contamination
        if share == 0 or truth.count(share)
        for bank in args.banks
        for sampler in args.names
    ]


def later(args: argparse.Namespace, truth: sets.Truth, cell: Cell) -> list[float]:
    """The contaminations that a clean cell is the reference of."""
    return [] if cell["share"] else sorted(s for s in args.shares if s and truth.count(s))


def missing(args: argparse.Namespace, truths: list[sets.Truth], store: Store) -> list[Cell]:
    """Cells of the plan that the store lacks, or of which it lacks a part."""
    named = {t.name: t for t in truths}
    return [
        c
        for c in plan(args, truths)
        if not (had := store.cells.get(key(c)))
        or not {f"{s:g}" for s in later(args, named[c["set"]], c)} <= set(had["rest"])
    ]


def run(args: argparse.Namespace, truths: list[sets.Truth], store: Store, device: torch.device) -> Iterator[Cell]:
    """Measure the cells that the store lacks, and add them to it."""
    waiting = missing(args, truths, store)
    checked: set[tuple[str, str]] = set()
    while waiting:
        truth = next(t for t in truths if t.name == waiting[0]["set"])
        backbone = waiting[0]["backbone"]
        mine = [c for c in waiting if (c["set"], c["backbone"]) == (truth.name, backbone)]
        waiting = waiting[len(mine) :]
        config = PatchCoreConfig(backbone=backbone, weights=args.weights, image_size=args.image_size,
                                 device=str(device), **sets.NEAREST)  # fmt: skip
        features = sets.extract(truth, config, any(samplers.wants_views(c["sampler"]) for c in mine))
        ready: tuple[int, float] | None = None
        for cell in mine:
            if ready != (cell["seed"], cell["share"]):
                rows = positions = torch.empty(0)  # the last training set goes before the next comes
                what = sets.draw(truth, cell["share"], cell["seed"])
                rows, positions = sets.training_rows(features, what)
                weights = bootstrap.resamples(truth, what.kept, args.resamples)
                if ready is None:
                    cells.warm(list(dict.fromkeys(c["sampler"].removesuffix(BARE) for c in mine)), rows, positions,
                               device)  # fmt: skip
                ready = (cell["seed"], cell["share"])
            replicates = None
            try:
                found, replicates, values, maps = one(
                    cell, args, truth, features, what, rows, positions, weights, config
                )
                if (truth.name, backbone) not in checked:
                    cells.agree(truth, what.kept, values, *maps)
                    checked.add((truth.name, backbone))
                cell = cell | found
            except (RuntimeError, ValueError, TypeError, MemoryError) as error:
                cell = cell | {"status": "failed", "message": f"{type(error).__name__}: {error}"[:300]}
                replicates = None
            store.add(cell, replicates)
            yield cell


def one(cell: Cell, args: argparse.Namespace, truth: sets.Truth, features: sets.Features, what: sets.Draw,
        rows: torch.Tensor, positions: torch.Tensor, weights: np.ndarray, config: PatchCoreConfig) -> Any:  # fmt: skip
    """A cell's record, resampled values, values, and (image scores, maps)."""
    bare = cell["sampler"].endswith(BARE)
    device = torch.device(str(config.device))
    name = cell["sampler"].removesuffix(BARE)
    best = samplers.chosen(args.best, truth.name) if args.best and name == samplers.BEST else None
    made = samplers.make(name, cell["bank"], cell["seed"], str(device), best)
    views = [sets.training_rows(v, what)[0] for v in features.views] if samplers.wants_views(cell["sampler"]) else None
    chosen = cells.select(made, rows, None if bare else positions, device, views)
    if not len(chosen.rows):
        raise ValueError(f"no rows: {cell['bank']:g} of {len(rows)}")
    begin = time.perf_counter()
    maps = cells.score(features, rows[chosen.rows], what.kept, config, args.map_size, args.sigma)
    search = time.perf_counter() - begin
    values, replicates, binned = bootstrap.measure(truth, what.kept, weights, *maps)
    metrics = {
        m: [float(values[i]), *bootstrap.interval(replicates[:, i])] if np.isfinite(values[i]) else [None] * 3
        for i, m in enumerate(bootstrap.METRICS)
    }
    rest = {}
    for share in later(args, truth, cell):  # what this clean bank gives on the test that is left when contaminated
        kept = sets.draw(truth, share, cell["seed"]).kept
        left = bootstrap.resamples(truth, kept, args.resamples)
        rest[f"{share:g}"], more = bootstrap.image_auroc(truth, kept, left, maps[0])
        replicates = np.column_stack([replicates, more])
    record = {
        "status": "ok", "moved": len(what.moved), "picked": len(chosen.rows),
        "from_moved": cells.moved_share(chosen.rows, what, features.train.shape[1]),
        "select_s": chosen.seconds, "extra_bytes": chosen.extra_bytes, "search_s": search, "binned": binned,
        "metrics": metrics, "rest": rest, **({"report": chosen.report} if chosen.report else {}),
    }  # fmt: skip
    return record, replicates, values, maps


def result(store: Store, environment: dict[str, Any], asked: dict[str, Any], final: bool) -> dict[str, Any]:
    """What is written. Means come with the final state only: in between there are none rather than old ones."""
    about = {}
    for name in dict.fromkeys(k[-1] for k in store.cells):
        entry = samplers.TABLE[name.removesuffix(BARE)]
        bare = "; given features and nothing else" * name.endswith(BARE)
        about[name] = {"about": entry.about + bare, "kind": entry.kind}
    return {
        "benchmark": "accuracy", "environment": environment, "options": asked, "commits": store.commits,
        "sets": list(store.sets.values()), "samplers": about, "cells": list(store.cells.values()),
        "means": summary.means(store) if final else [], "regained": summary.regained(store) if final else [],
    }  # fmt: skip


def line(cell: Cell, done: int, total: int) -> str:
    """Progress of one cell."""
    text = (f"[{done}/{total}] {cell['set']} {sets.label(cell['backbone'])} seed {cell['seed']} contaminated "
            f"{cell['share']:.0%} bank {100 * cell['bank']:g} % {cell['sampler']}: ")  # fmt: skip
    if cell["status"] != "ok":
        return f"{text}FAILED: {cell['message']}"
    values = ", ".join(f"{bootstrap.NAMES[m]} {v[0]:.3f}" for m, v in cell["metrics"].items() if v[0] is not None)
    return (f"{text}{values}; {cell['picked']:,} rows in {records.seconds(cell['select_s'])}, "
            f"{records.size(cell['extra_bytes'])}; search {records.seconds(cell['search_s'])}")  # fmt: skip


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, checked."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", nargs="*", type=Path, metavar="DATA", help="folders in MVTec AD's layout")
    p.add_argument("--samplers", nargs="+", metavar="NAME", help="default: random greedy elfs; see --list")
    p.add_argument("--ablations", action="store_true", help="ELFS with each of its parts changed, too")
    p.add_argument("--bare", action="store_true", help="samplers that take positions also without them: run(features)")
    p.add_argument(
        "--best",
        type=Path,
        metavar="FOLDER",
        help="SET.toml, best.toml of `patchcore-fast grid` on each set: of the sampler 'composite, best'",
    )
    p.add_argument("--banks", nargs="+", type=float, default=[0.001, 0.01, 0.1], metavar="SHARE")
    p.add_argument("--contamination", nargs="+", type=float, default=[0.0, 0.05, 0.1], metavar="SHARE")
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    p.add_argument("--backbones", nargs="+", default=["tf_efficientnet_lite0"], metavar="NAME")
    p.add_argument("--weights", default="auto", help='of the backbone; "random" for a look at the machinery')
    p.add_argument("--image-size", type=int, default=256)
    p.add_argument("--map-size", type=int, default=128, help="side of score maps and masks")
    p.add_argument("--sigma", type=float, default=2.0, help="of the maps' smoothing, in their pixels")
    p.add_argument("--resamples", type=int, default=200)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--quick", action="store_true", help="one seed, a bank of 1 %%, contamination of 0 and 10 %%")
    p.add_argument("--json", type=Path, metavar="FILE", help="written whole after every cell")
    p.add_argument("--resume", action="store_true", help="keep the cells that FILE has")
    p.add_argument("--again", nargs="+", default=[], metavar="NAME", help="with --resume: but not of these samplers")
    p.add_argument("--plot", type=Path, metavar="FOLDER")
    p.add_argument("--dry-run", action="store_true", help="say what would be measured")
    p.add_argument("--list", action="store_true", help="print the samplers")
    args = p.parse_args(argv)
    if args.quick:
        args.seeds, args.banks, args.contamination = args.seeds[:1], [0.01], [0.0, 0.1]
    for name in ("banks", "contamination"):  # as the file has them
        setattr(args, name, [float(f"{v:.6g}") for v in getattr(args, name)])
    if not all(0 < v < 1 for v in args.banks):
        raise SystemExit(f"--banks: shares in (0, 1) are wanted, got {args.banks}")
    if not all(0 <= v < 1 for v in args.contamination):
        raise SystemExit(f"--contamination: shares in [0, 1) are wanted, got {args.contamination}")
    if not all(0 <= v < 2**32 for v in args.seeds):
        raise SystemExit(f"--seeds: 0 to 2**32 - 1 are wanted, got {args.seeds}")
    if args.map_size < 1 or args.image_size < 32 or not 0 <= args.sigma < args.map_size or args.resamples < 20:
        raise SystemExit(
            "--map-size >= 1, --image-size >= 32, 0 <= --sigma < --map-size and --resamples >= 20 are wanted, got "
            f"{args.map_size}, {args.image_size}, {args.sigma}, {args.resamples}"
        )
    if (args.resume or args.again) and not args.json:
        raise SystemExit("--resume and --again need --json")
    wanted = args.samplers or ["random", samplers.BASELINE, samplers.OURS]
    wanted += [n for n, entry in samplers.TABLE.items() if args.ablations and entry.kind == "ablation"]
    args.wanted = list(dict.fromkeys(wanted))
    if (samplers.BEST in args.wanted) != (args.best is not None):
        raise SystemExit(f"--best goes with the sampler {samplers.BEST!r}, and it with --best")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.list:
        print("\n".join(f"  {name:<24} {entry.about}" for name, entry in samplers.TABLE.items()))
        return 0
    if not args.data:
        raise SystemExit("at least one folder in MVTec AD's layout is wanted")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end: what there is gets its means
    samplers.check(args.wanted)
    args.names = list(args.wanted)
    if args.bare:
        args.names += [n + BARE for n in args.wanted if samplers.takes(samplers.TABLE[n].make(0.01, 0, None))]
    truths = [sets.read_truth(folder, args.map_size) for folder in args.data]
    if len({t.name for t in truths}) < len(truths):
        raise SystemExit(f"folders of different names are wanted, got {', '.join(t.name for t in truths)}")
    store = Store(args.json)
    settings = ("image_size", "map_size", "sigma", "weights", "resamples", "device")  # what values depend on
    asked = {name: getattr(args, name) for name in settings}
    known = [t.describe(args.contamination) for t in truths]
    if args.resume:
        store.resume(asked, known)
        store.forget(args.again)
    args.shares = {*args.contamination, *(k[3] for k in store.cells)}  # what the file will have in the end
    for one_set in known:
        store.know(one_set)
        if none := [s for s, count in one_set["moved"].items() if float(s) and not count]:
            print(f"{one_set['name']}: too small for a contamination of {' and '.join(none)}", file=sys.stderr)
    todo = plan(args, truths)
    lacking = missing(args, truths, store)
    if args.dry_run:
        for t in known:
            print(f"{t['name']}: {t['train']} training images; tests {t['good']} good, {t['defective']} defective, "
                  f"{t['masked']} with masks; moved {t['moved']}")  # fmt: skip
        print(f"{len(todo)} cells, {len(lacking)} to measure: {', '.join(args.names)}")
        return 0
    environment = describe(args.device)
    if lacking and environment["commit"] not in store.commits:
        store.commits.append(environment["commit"])
    done = len(todo) - len(lacking)
    try:
        for cell in run(args, truths, store, torch.device(args.device)):
            done += 1
            print(line(cell, done, len(todo)), file=sys.stderr, flush=True)
            store.write(result(store, environment, asked, final=False))
    finally:
        whole = result(store, environment, asked, final=True)
        store.write(whole)
    print(page.as_text(whole))
    if args.plot:
        args.plot.mkdir(parents=True, exist_ok=True)
        for name, draw in accuracy_plots.figures(whole, "accuracy").items():
            draw(args.plot / name)
    failed = [c for c in todo if store.cells[key(c)]["status"] != "ok"]
    for cell in failed:
        print(f"FAILED: {cell['set']} {cell['sampler']}: {store.cells[key(cell)]['message']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
