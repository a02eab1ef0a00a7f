"""What the scripts that measure providers do alike: run, keep the result on disk as far as it is, draw it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import options, records
from benchmarks.harness.environment import describe
from benchmarks.harness.runs import Row, Runner

Problem = dict[str, Any]


class Result:
    """The result of a script. With --json it is on disk after every measurement: what follows may be cut off."""

    def __init__(self, args: argparse.Namespace, benchmark: str) -> None:
        self.path = args.json
        self.whole: dict[str, Any] = {"benchmark": benchmark, "environment": describe(args.device), "problems": []}
        asked = ("repeat", "limit_s", "memory_gb", "device", "seed")
        self.whole["options"] = {name: getattr(args, name) for name in asked}

    def add(self, problem: Problem) -> None:
        """One that is at its end: print and keep it."""
        print(records.as_text(problem), flush=True)
        self.whole["problems"].append(problem)
        self.write()

    def write(self, going: list[Problem] | None = None) -> None:
        """On disk, with what is not at its end yet."""
        if self.path:
            records.write(self.path, {**self.whole, "problems": [*self.whole["problems"], *(going or [])]})

    def writer(self, about: Callable[[int], Problem]) -> Callable[[list[Row]], None]:
        """What `Runner.run` tells its rows.

        about : count -> the problem without its rows.
        """

        def told(rows: list[Row]) -> None:
            counts = dict.fromkeys(row.k for row in rows if row.times_s)
            self.write([with_rows(about(k), rows) for k in counts])

        return told


def with_rows(about: Problem, rows: list[Row]) -> Problem:
    """A problem with its own rows, those of its count, as result files hold them."""
    return {**about, "rows": [row.as_json() for row in rows if row.k == about["k"]]}


Measure = Callable[[argparse.Namespace, Runner, Result], None]


def measure(args: argparse.Namespace, task: str, go: Measure, draw: str = "") -> dict[str, Any]:
    """Run `go` with the runner that the options describe, end all workers, draw; the result.

    draw : the function of pages/plots.py that makes the figure of --plot.
    """
    result, run = Result(args, task), options.runner(args, task)
    try:
        go(args, run, result)
    finally:
        run.close()
    if args.plot:
        from benchmarks.pages import plots

        Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
        getattr(plots, draw)(result.whole, args.plot)
        print(f"\nfigure: {args.plot}")
    return result.whole
