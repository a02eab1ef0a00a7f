"""Rarity, the mean distance of every row to its k nearest of 1,024 anchors: ours beside scikit-learn and torch.cdist.

    python -m benchmarks.speed.rarity --quick
    python -m benchmarks.speed.rarity                          # 307,200 x 152, k = 5: patches of EfficientNet-Lite0
    python -m benchmarks.speed.rarity --features X.npy --k 5 --json out.json --plot out.png

Correctness comes first: on a sample of 2,000 rows the values must be those of float64 brute force. 1e-3 relative is
allowed, since float32 searches in expanded form lose digits where distances are short, and the error found is shown;
ours are held to 1e-6 in the tests; arithmetic without a certificate may be off by more. Runs are interleaved; each
provider has a process of its own.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.harness import options, script
from benchmarks.harness.providers.rarity import anchor_rows
from benchmarks.harness.runs import Row, Runner
from benchmarks.harness.script import Result, with_rows

SAMPLE = 2000  # rows that are checked
TOLERANCE = 1e-3
QUICK = {"n": [30_000], "limit_s": 5.0, "plot": str(options.QUICK_FOLDER / "rarity.png")}


def expected(features: np.ndarray, sample: np.ndarray, k: int) -> np.ndarray:
    """Rarity of some rows [S], by float64 in difference form."""
    rows = anchor_rows(len(features))
    anchors = features[rows].astype(np.float64)
    out = np.empty(len(sample))
    for i, row in enumerate(sample):
        difference = anchors[rows != row] - features[row]
        out[i] = np.sqrt(np.partition(np.einsum("ad,ad->a", difference, difference), k - 1)[:k]).mean()
    return out


def judge(row: Row, found: np.ndarray, sample: np.ndarray, true: np.ndarray, n: int, allowed: float) -> None:
    """Set the row's error, and its status where the values are wrong."""
    row.error = float("inf")
    if found.shape != (n,) or found.dtype.kind != "f":
        row.status, row.message = "wrong", f"{n} floats are wanted, got {found.dtype} of shape {found.shape}"
        return
    relative = np.abs(found[sample] - true) / np.maximum(true, 1e-5 * true.max() + 1e-300)
    row.error = float(relative.max()) if np.isfinite(relative).all() else float("inf")
    if not row.error <= allowed:
        row.status, row.message = "wrong", f"a value is off by {row.error:.1e} of itself ({allowed:.0e} is allowed)"


def measure(args: argparse.Namespace, run: Runner, result: Result) -> None:
    """All cases and sizes."""
    for name in args.case if not (args.features or args.images) else [""]:
        for n in args.n or [None]:
            case, path = options.features(args, name, n, run.folder)
            anchors = len(anchor_rows(case.n))
            if not 1 <= args.k[0] <= args.k[-1] < anchors:
                raise SystemExit(f"--k: 1 to {anchors - 1} are wanted, got {args.k}")
            run.say(f"{case.name}, rarity of {case.n:,} x {case.d} with {anchors:,} anchors")
            about = {"case": case.name, "about": case.about, "n": case.n, "d": case.d, "anchors": anchors}
            told = result.writer(lambda k, about=about: {**about, "k": k})  # type: ignore[misc]
            rows, answers, _ = run.run({"features": str(path)}, case.n, case.d, args.k, told=told)
            features = np.load(path, mmap_mode="r")
            sample = np.random.default_rng(args.seed).choice(case.n, min(SAMPLE, case.n), replace=False)
            for k in args.k:
                true = expected(features, sample, k)
                for row in (r for r in rows if r.k == k and r.status == "ok"):
                    allowed = run.providers[row.provider].tolerance or TOLERANCE
                    judge(row, np.asarray(answers[row.provider, k]["rarity"]), sample, true, case.n, allowed)
                    row.judged = True
                told(rows)
            for k in args.k:
                result.add(with_rows({**about, "k": k}, rows))


def main(argv: list[str] | None = None) -> None:
    parser = options.parser("rarity", __doc__)
    parser.add_argument("--k", type=int, nargs="+", help="neighbours; default 5")
    args = parser.parse_args(argv)
    if args.list:
        options.show_list(args, "rarity")
        return
    if args.case is None:
        args.case = ["efficientnet"]
    options.finish(args, QUICK)
    args.k = sorted(set(args.k or [5]))
    script.measure(args, "rarity", measure, "bars")


if __name__ == "__main__":
    main()
