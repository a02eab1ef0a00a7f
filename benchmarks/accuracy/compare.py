"""PatchCore beside the other methods: accuracy, seconds to train, ms an image, memory, as `patchcore-fast compare` has it.

    python -m benchmarks.accuracy.compare DATA... --output FOLDER --json benchmarks/results/DEVICE/compare/compare.json --page docs/compare.md

DATA are folders in MVTec AD's layout; --page puts the tables into docs/compare.md. Each cell (set, method, seed) is
measured in a process of its own and kept in FOLDER/COMMIT, so that the same command goes on where it was ended, and
never with cells of other code; the JSON is written after each. Methods that are trained by steps can have fewer seeds
(--trained-seeds) and a number of epochs of their own (--epochs rd=20); results are those of the last epoch.
"""  # noqa: E501

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import records
from benchmarks.harness.environment import describe
from benchmarks.pages.render import with_table
from patchcore_fast.comparison.plan import METHODS, Cell, Entry, cells, checked_names, entries
from patchcore_fast.comparison.run import Done, run
from patchcore_fast.comparison.table import lines_of
from patchcore_fast.config.base import settings_of
from patchcore_fast.files import atomic_write
from patchcore_fast.report.comparison import COLUMNS, COSTS, Line, shown

MARKS = ("<!-- compare:begin -->", "<!-- compare:end -->")
NAMES = "patchcore,elfs,padim,subspace,simplenet,rd"
BY_SET = ("image_auroc", "pixel_ap", "aupro", "train_s")
KEPT = ("error", "metrics", *COSTS, "train_cpu_s", "train", "test", "anomalous", "notes")  # of a cell's record


def trained(name: str) -> bool:
    """Whether a method is trained by steps."""
    return name in METHODS and "epochs" in {f.name for f in settings_of(METHODS[name])}


def plan(folders: Sequence[Path], methods: Sequence[Entry], seeds: int, trained_seeds: int) -> list[Cell]:
    """The cells, set by set, those that are soon done first."""
    few = [entry for entry in methods if trained(entry.name)]
    rest = [entry for entry in methods if not trained(entry.name)]
    return [*cells(folders, rest, range(seeds)), *cells(folders, few, range(trained_seeds))]


def row(done: Done) -> dict[str, Any]:
    """A cell for the result file."""
    cell = done.cell
    return {"set": cell.set, "method": cell.method, "seed": cell.seed} | {
        key: done.record[key] for key in KEPT if key in done.record
    }


def read_lines(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Lines of `lines_of`, by the rows of a result file."""
    done = [Done(Cell(r["set"], Path(r["set"]), r["method"], r["seed"]), r) for r in rows]
    order = list(dict.fromkeys(r["method"] for r in rows))
    found = lines_of([each.cell for each in done], done)
    sets = [*dict.fromkeys(line.set for line in found if line.set is not None), None]
    return sorted(found, key=lambda line: (sets.index(line.set), order.index(line.method)))


def table(result: Mapping[str, Any]) -> str:
    """Markdown: means over sets, each set, and what failed."""
    lines = read_lines(result["rows"])
    seeds = {m: len({r["seed"] for r in result["rows"] if r["method"] == m}) for m in result["methods"]}
    whole = [line for line in lines if line.set is None] or lines
    columns = [c for c in COLUMNS if any(c in line.values for line in whole)]
    text = [_row(["method, seeds", *(COLUMNS[c][0] for c in columns)]), _row(["---"] * (len(columns) + 1))]
    most = max((v.count for line in whole for v in line.values.values()), default=0)
    for line in whole:
        few = max((v.count for v in line.values.values()), default=0)
        some = f" (of {few} sets)" if whole is not lines and few < most else ""
        text.append(
            _row([f"{line.method}, {seeds[line.method]}{some}", *(shown(c, line.values.get(c)) for c in columns)])
        )
    if whole is not lines:
        text += ["", _row(["set", "method", *(COLUMNS[c][0] for c in BY_SET)]), _row(["---"] * (len(BY_SET) + 2))]
        text += [_row([line.set, line.method, *(shown(c, line.values.get(c)) for c in BY_SET)])
                 for line in lines if line.set is not None]  # fmt: skip
    failed = [f"* {line.set}, {line.method}: {error}" for line in lines for error in line.errors]
    return "\n".join([*text, *(["", *failed] if failed else [])])


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def main(argv: list[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="of finished cells")
    parser.add_argument("--methods", default=NAMES, metavar="M,M", help="default %(default)s")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="default %(default)s")
    parser.add_argument("--trained-seeds", type=int, metavar="N", help="of methods that are trained (default: --seeds)")
    parser.add_argument("--epochs", nargs="*", default=[], type=_epochs, metavar="METHOD=N", help="default: their own")
    parser.add_argument("--weights", default="auto", help="of the backbone")
    parser.add_argument("--image-size", type=int, default=256, metavar="PX", help="default %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="put the tables between its marks")
    args = parser.parse_args(argv)
    epochs = dict(args.epochs)
    shared = {"weights": args.weights, "image_size": args.image_size, "device": "cpu"}
    names = checked_names(args.methods)
    methods = [entry for name in names for entry in entries((name,), {}, shared, epochs.get(name))]
    environment = describe("cpu")
    output = args.output / str(environment["commit"])  # cells know the version, which commits share
    output.mkdir(parents=True, exist_ok=True)
    asked = {"methods": list(names), "seeds": args.seeds, "trained_seeds": args.trained_seeds or args.seeds,
             "epochs": epochs, "weights": Path(args.weights).name, "image_size": args.image_size}  # fmt: skip
    result: dict[str, Any] = {
        "benchmark": "compare", "environment": environment, "options": asked,
        "methods": {entry.name: entry.settings for entry in methods}, "rows": [],
    }  # fmt: skip
    wanted = plan(args.folders, methods, args.seeds, args.trained_seeds or args.seeds)
    for each in run(wanted, methods, output, lambda cell: print(f"{cell.said} ...", flush=True)):
        result["rows"].append(row(each))
        if args.json:
            records.write(args.json, result, schema=None, lines=["rows"])
    print(table(result))
    if args.page:
        text = with_table(args.page.read_text(encoding="utf-8"), said(result), MARKS)
        with atomic_write(args.page, "w", encoding="utf-8") as f:
            f.write(text)


def said(result: Mapping[str, Any]) -> str:
    """What stands between the marks of the page."""
    place, asked = result["environment"], result["options"]
    trainings = ", ".join(f"{name} {number}" for name, number in asked["epochs"].items())
    epochs = f"; epochs: {trainings}, others their own" if trainings else ""
    made = f"torch {place['torch']}; commit {place['commit']}, {place['date']}{epochs}"
    return f"{place['device']}; {place['threads']} threads; {made}.\n\n{table(result)}"


def _epochs(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not trained(name) or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"METHOD=N of a method that is trained is wanted, got {text}")
    return name, int(number)


if __name__ == "__main__":
    main()
