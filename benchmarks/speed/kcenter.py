"""Coreset selection: ours beside the plain loop and beside other libraries, in one run.

    python -m benchmarks.speed.kcenter --quick                 # under three minutes on two cores; table and figure
    python -m benchmarks.speed.kcenter                         # 156,800 x 128 real features, 1 % and 10 %
    python -m benchmarks.speed.kcenter --features X.npy --ratio 0.01 --repeat 5 --json out.json --plot out.png
    python -m benchmarks.speed.kcenter --case million --k 500 --memory-gb 8 --repeat 1

Each provider works in a process of its own; runs are interleaved. Correctness comes first: picks must be a greedy trace
in float64 in the provider's own space (its projection, its starting distances), to 1e-5 relative, or the error is
shown instead of a time; arithmetic without a certificate (TF32, bfloat16) is judged by its covering radius. On a GPU
the picks are compared with those of our CPU engine too. With several --n and --ratio: the first ratio at all sizes, all
ratios at the largest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import options, records, script
from benchmarks.harness.check import TOLERANCE, Trace, leading
from benchmarks.harness.providers import Provider
from benchmarks.harness.runs import Row, Runner
from benchmarks.harness.script import Result, with_rows
from patchcore_fast.kernels import k_center_greedy

QUICK = {"n": [10_000, 40_000, 156_800], "ratio": [0.01, 0.0025, 0.02], "limit_s": 4.0, "check_picks": 500,
         "without": ["amazon exact"], "plot": str(options.QUICK_FOLDER / "kcenter.png")}  # fmt: skip


def counts(args: argparse.Namespace, n: int, largest: bool) -> list[int]:
    """Picks at this size, ascending."""
    if args.k:
        return sorted({min(k, n) for k in args.k})
    return sorted({max(1, int(r * n)) for r in (args.ratio if largest else args.ratio[:1])})


class Judge:
    """Checks answers over the same rows; spaces that are equal are judged together."""

    def __init__(self, features: np.ndarray, device: str, limit: int | None) -> None:
        self.device, self.limit = device, limit
        self.spaces: list[tuple[dict[str, Any], Trace]] = []
        self.references: dict[tuple[int, int], np.ndarray] = {}
        self.plain = self._space({"features": features})

    def _space(self, arrays: dict[str, Any]) -> int:
        for i, (known, _) in enumerate(self.spaces):
            if known.keys() == arrays.keys() and all(np.array_equal(known[name], arrays[name]) for name in known):
                return i
        initial = torch.from_numpy(arrays["initial"]) if "initial" in arrays else None
        self.spaces.append((arrays, Trace(torch.from_numpy(arrays["features"]), initial, self.device)))
        return len(self.spaces) - 1

    def judge(self, row: Row, picks: np.ndarray, own: dict[str, Any] | None, provider: Provider) -> None:
        """Set the row's error and leading picks, and its status where the picks are wrong."""
        space = self._space(own) if own else self.plain
        arrays, trace = self.spaces[space]
        n = len(arrays["features"])
        if n != len(self.spaces[self.plain][0]["features"]):
            row.status, row.message = "wrong", f"its space has {n:,} rows"
            return
        if picks.shape != (row.k_timed,) or picks.dtype.kind not in "iu" or picks.min() < 0 or picks.max() >= n:
            row.status, row.error = "wrong", float("inf")
            row.message = f"{row.k_timed} row numbers below {n} are wanted, got {picks.dtype} of shape {picks.shape}"
            return
        checked = picks[: self.limit] if self.limit else picks
        row.facts["checked"] = len(checked)
        reference = self._reference(space, int(picks[0]), len(checked) if self.device != "cpu" else len(picks))
        row.leading = leading(picks, reference)
        if self.device != "cpu":
            row.facts["compared"] = len(checked)
        if provider.judged == "radius":
            self._judge_radius(row, checked, reference[: len(checked)], trace, provider.tolerance)
            return
        row.error = trace.shortfall(checked)
        if not np.isfinite(row.error):
            row.leading = None
        if not row.error <= TOLERANCE:
            row.status = "wrong"
            row.message = f"not greedy: a pick is {row.error:.1e} nearer than the farthest row (1e-5 is allowed)"
        elif self.device != "cpu" and records.is_ours(vars(row)) and row.leading < len(checked):
            row.status, row.message = "wrong", f"pick {row.leading} is not that of the CPU engine"

    def _judge_radius(self, row: Row, picks: np.ndarray, exact: np.ndarray, trace: Trace, tolerance: float) -> None:
        """The covering radius against that of the exact picks; no row twice."""
        row.facts["judged"] = "covering radius"
        row.error = max(0.0, trace.radius(picks) / max(trace.radius(exact), 1e-300) - 1)
        if len(np.unique(picks)) < len(picks):
            row.error = float("inf")
        if not row.error <= tolerance:
            row.status = "wrong"
            row.message = f"the covering radius is {row.error:.1%} too large ({tolerance:.0%} is allowed)"

    def _reference(self, space: int, start: int, k: int) -> np.ndarray:
        """The exact order: ours on the CPU, which the tests hold against the float64 reference."""
        arrays, trace = self.spaces[space]
        key = (space, start if trace.free else -1)
        if len(self.references.get(key, ())) < k:
            rule = {"start": start} if trace.free else {"initial_min_dist": torch.from_numpy(arrays["initial"])}
            self.references[key] = k_center_greedy(torch.from_numpy(arrays["features"]), k, **rule).indices.numpy()
        return self.references[key]

    def learn(self, picks: np.ndarray) -> None:
        """On the CPU our own picks on the plain rows are the reference there; they need not be made again."""
        if self.device != "cpu":
            return
        key = (self.plain, int(picks[0]))
        if len(picks) > len(self.references.get(key, ())):
            self.references[key] = picks


def measure(args: argparse.Namespace, run: Runner, result: Result) -> None:
    """All cases and sizes."""
    for name in args.case if not (args.features or args.images) else [""]:
        sizes = sorted(args.n) if args.n else [None]
        options.features(args, name, sizes[-1], run.folder)  # the others are its beginnings
        for n in sizes:
            case, path = options.features(args, name, n, run.folder)
            ks = counts(args, case.n, largest=n is None or n == max(args.n))
            run.say(f"{case.name}, {case.n:,} x {case.d}, {', '.join(f'{k:,}' for k in ks)} picks")
            about = {"case": case.name, "about": case.about, "n": case.n, "d": case.d}
            told = result.writer(lambda k, about=about: {**about, "k": k})  # type: ignore[misc]
            rows, answers, spaces = run.run({"features": str(path)}, case.n, case.d, ks, told=told)
            run.say("  checking")
            _check(rows, answers, run, spaces, path, args, told)
            for k in ks:
                result.add(with_rows({**about, "k": k}, rows))


def _check(rows: list[Row], answers: dict, run: Runner, spaces: dict, path: Path, args: argparse.Namespace,
           told: Callable[[list[Row]], None]) -> None:  # fmt: skip
    """Judge every answer, also those of runs that differed from the first."""
    if not answers:
        return
    judge = Judge(np.load(path, mmap_mode="c"), args.device, args.check_picks)
    # The longest first: shorter ones are mostly their beginnings.
    for row in sorted(rows, key=lambda r: (r.family != "ours", -r.k_timed)):
        if row.status == "ok":
            picks = np.asarray(answers[row.provider, row.k]["indices"])
            provider = run.providers[row.provider]
            judge.judge(row, picks, spaces.get(row.provider), provider)
            for other in run.others.get((row.provider, row.k), []):
                if row.status == "ok":
                    judge.judge(row, np.asarray(other["indices"]), spaces.get(row.provider), provider)
            row.judged = True
            told(rows)
            if row.family == "ours" and row.status == "ok":
                judge.learn(picks)


def main(argv: list[str] | None = None) -> None:
    parser = options.parser("kcenter", __doc__)
    parser.add_argument("--ratio", type=float, nargs="+", help="picks as a share of the rows; default 0.01 0.1")
    parser.add_argument("--k", type=int, nargs="+", help="picks as numbers, instead of --ratio")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="how the rows are stored")
    parser.add_argument("--check-picks", type=int, help="check this many leading picks; default: all; quick: 500")
    args = parser.parse_args(argv)
    if args.list:
        options.show_list(args, "kcenter")
        return
    options.finish(args, QUICK)
    args.ratio = args.ratio or [0.01, 0.1]
    if not all(0 < r <= 1 for r in args.ratio) or (args.k and min(args.k) < 1):
        raise SystemExit(f"--ratio: in (0, 1], --k: at least 1; got {args.ratio}, {args.k}")
    script.measure(args, "kcenter", measure, "kcenter")


if __name__ == "__main__":
    main()
