"""k nearest neighbours: ours beside faiss, scikit-learn, torch.cdist and KeOps, in one run.

    python -m benchmarks.speed.knn --quick
    python -m benchmarks.speed.knn    # 1,638 queries of 163,840 x 128, 163,840 of 1,638 x 128, 16,384 of 16,384 x 1,024
    python -m benchmarks.speed.knn --features X.npy --queries 1000 --k 1 9 --json out.json --plot out.png

Queries are rows of the same features that are not in the bank. A bank that is smaller than the queries, as a coreset
is, takes its rows at equal steps from all of them; a larger one the first rows. Correctness comes first: for a sample
of the queries the distances of the rows found must be the true k smallest in float64, to 1e-5 relative, or the error is
shown instead of a time; arithmetic without a certificate may err as its rounding does, and the matrix product alone is
judged as a product. Runs are interleaved; each provider has a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import options, script
from benchmarks.harness.check import TOLERANCE, Neighbours, product_error
from benchmarks.harness.providers import Provider
from benchmarks.harness.runs import Row, Runner
from benchmarks.harness.script import Result, with_rows

SAMPLE = 200  # queries that are checked against brute force
FULL = [("bottle", 163_840, 1638, 128), ("bottle", 1638, 163_840, 128), ("clustered", 16_384, 16_384, 1024)]
QUICK = [("photos", 20_000, 400, 128)]


def problems(args: argparse.Namespace) -> Sequence[tuple[str, int | None, int, int | None]]:
    """(case, bank rows or None for all that there are, queries, columns)."""
    if not (args.n or args.d or args.case or args.queries or args.features or args.images):
        return QUICK if args.quick else FULL
    names = args.case or ["photos"]
    sizes = args.n or [None if args.features or args.images else 20_000]
    return [(name, n, args.queries or 1000, args.d) for name in names for n in sizes]


def split(path: Path, bank: int, folder: Path) -> dict[str, str]:
    """The first rows as the bank, or as many at equal steps if they are the fewer; the rest as queries: two files."""
    rows = np.load(path, mmap_mode="r")
    inside = np.zeros(len(rows), bool)
    inside[np.arange(bank) if 2 * bank >= len(rows) else np.arange(bank) * len(rows) // bank] = True
    files = {"bank": folder / "bank.npy", "queries": folder / "queries.npy"}
    np.save(files["bank"], rows[inside])
    np.save(files["queries"], rows[~inside])
    return {name: str(file) for name, file in files.items()}


def judge(row: Row, answer: dict[str, np.ndarray], true: Neighbours, provider: Provider) -> None:
    """Set the row's error, and its status where the neighbours are wrong."""
    found, allowed = answer["rows"], provider.tolerance or TOLERANCE
    if provider.judged:
        row.facts["judged"] = "of (|x| + |y|)^2" if provider.judged == "slack" else "of |x| |y|"
    if provider.judged == "product":
        row.error = product_error(true.query, true.bank, found, answer["product"])
        if not row.error <= allowed:
            row.status, row.message = "wrong", f"the product is off by {row.error:.1e} ({allowed:.1e} is allowed)"
        return
    try:
        if provider.judged == "slack":
            row.error, row.facts["recall"] = true.slack(found)
        else:
            row.error = true.error(found)
    except ValueError as error:
        row.status, row.error, row.message = "wrong", float("inf"), str(error)
        return
    if found.shape[1] != row.k:
        row.status, row.error = "wrong", float("inf")
        row.message = f"{row.k} rows a query are wanted, got {found.shape[1]}"
    elif not row.error <= allowed:
        row.status = "wrong"
        row.message = f"not the nearest: a distance is {row.error:.1e} too large ({allowed:.0e} is allowed)"


def one(args: argparse.Namespace, run: Runner, result: Result, name: str, bank: int | None, queries: int,
        d: int | None) -> None:  # fmt: skip
    """All counts of one bank."""
    args.d = d
    case, path = options.features(args, name, None if bank is None else bank + queries, run.folder)
    if case.n <= queries:
        raise SystemExit(f"--queries: fewer than the {case.n:,} rows are wanted, got {queries:,}")
    bank = case.n - queries
    files = split(path, bank, run.folder)
    run.say(f"{case.name}, {queries:,} queries of {bank:,} x {case.d}")

    def about(k: int) -> dict[str, Any]:
        return {"case": case.name, "about": case.about, "n": bank, "d": case.d, "k": k, "queries": queries}

    told = result.writer(about)
    rows, answers, _ = run.run(files, bank, case.d, args.k, queries, told)
    arrays = (np.load(files[name], mmap_mode="r") for name in ("queries", "bank"))
    true = Neighbours(*arrays, args.k[-1], SAMPLE, device=args.device)
    for k in args.k:
        for row in (r for r in rows if r.k == k and r.status == "ok"):
            judge(row, answers[row.provider, k], true, run.providers[row.provider])
            row.judged = True
            told(rows)
    for k in args.k:
        result.add(with_rows(about(k), rows))


def measure(args: argparse.Namespace, run: Runner, result: Result,
            problems: Sequence[tuple[str, int | None, int, int | None]]) -> None:  # fmt: skip
    """All banks."""
    for problem in problems:
        one(args, run, result, *problem)


def main(argv: list[str] | None = None) -> None:
    parser = options.parser("knn", __doc__)
    parser.add_argument("--k", type=int, nargs="+", help="neighbours; default 1 9")
    parser.add_argument("--queries", type=int, help="query rows; default 1,000")
    args = parser.parse_args(argv)
    if args.list:
        options.show_list(args, "knn")
        return
    wanted = problems(args)
    options.finish(args, {"plot": str(options.QUICK_FOLDER / "knn.png"), "limit_s": 5.0})
    args.k = sorted(set(args.k or [1, 9]))
    if args.k[0] < 1 or (args.queries is not None and args.queries < 1):
        raise SystemExit(f"--k, --queries: at least 1 is wanted, got {args.k}, {args.queries}")
    script.measure(args, "knn", partial(measure, problems=wanted), "bars")


if __name__ == "__main__":
    main()
