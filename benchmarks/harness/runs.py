"""One problem, all providers: who can run, interleaved timed runs, then the check of what they returned.

The rows of a result (`Row`) are what JSON files hold; `schema` in records.py describes them.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import memory
from benchmarks.harness.environment import available_bytes
from benchmarks.harness.providers import Problem, Provider
from benchmarks.harness.worker import Worker, WorkerError

_OPEN_TIMEOUT = 600.0  # seconds: some libraries compile at their first call


@dataclass
class Row:
    """One provider on one problem; see records.py."""

    provider: str
    family: str
    k: int
    status: str = "ok"
    message: str = ""
    times_s: list[float] = field(default_factory=list)
    k_timed: int = 0
    error: float | None = None
    leading: int | None = None
    extra_bytes: int = 0
    peak_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    judged: bool = False

    def as_json(self) -> dict[str, Any]:
        """With medians for a provider that was right; without any time for one that was not.

        What has not been judged, as the run is not at its end yet, says so.
        """
        row = asdict(self)
        times, judged = row.pop("times_s"), row.pop("judged")
        if self.status == "ok" and not times:
            row["status"], row["message"] = "not run", "its turn had not come"
        elif self.status == "ok":
            row["status"] = "ok" if judged else "unjudged"
            row.update(median_s=statistics.median(times), min_s=min(times), max_s=max(times), runs=len(times))
            row["extrapolated_from"] = self.k_timed if self.k_timed < self.k else None
        return row


@dataclass
class Runner:
    """How to run: options that hold for all problems.

    limit_s : seconds that a sequential provider gets for one problem, all its runs together.
    answer_s : seconds to wait for any one answer; None: what limit_s allows, ten minutes for the first.
    warm : make a run that is not timed first, at every size: kernels may be compiled for it.
    together : open all providers at the same time: their kernels are compiled side by side, and one that hangs delays
        the others once.
    memory_gb : what each provider may have, or None.  say : where progress goes.
    """

    task: str
    providers: dict[str, Provider]
    device: str = "cpu"
    repeat: int = 3
    limit_s: float = 60.0
    memory_gb: float | None = None
    seed: int = 0
    plugin: str | None = None
    answer_s: float | None = None
    warm: bool = False
    together: bool = False
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)

    def __post_init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        given = memory.check_gb(self.memory_gb)
        self.limit = given or int(0.9 * available_bytes())
        if given is None and self.device != "cpu":
            import torch

            self.limit = int(torch.cuda.get_device_properties(self.device).total_memory)
        scratch = os.environ.get("PATCHCORE_FAST_SCRATCH")  # gigabytes of features go there, if it is set
        self.folder = Path(tempfile.mkdtemp(prefix="patchcore_fast_benchmark_", dir=scratch))
        self.counter = itertools.count()

    def close(self) -> None:
        """End all workers, remove temporary files."""
        import shutil

        for worker in self.workers.values():
            worker.close()
        self.workers.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self,
        files: dict[str, str],
        n: int,
        d: int,
        counts: list[int],
        queries: int = 0,
        told: Callable[[list[Row]], None] = lambda rows: None,
    ) -> tuple[list[Row], dict[tuple[str, int], dict[str, Any]], dict[str, dict[str, Any]]]:
        """Time all providers on the arrays in the files, for each count.

        told : gets all rows, as far as they are, after every measurement: the run may be cut off before the next.

        Returns rows, the answers by (provider, count), and the spaces that providers want to be judged in.
        """  # fmt: skip
        self.told = told
        rows = {(p.name, k): Row(p.name, p.family, k) for k in counts for p in self.providers.values()}
        answers: dict[tuple[str, int], dict[str, Any]] = {}
        spaces: dict[str, dict[str, Any]] = {}
        self.short: dict[str, _Short] = {}
        self.first: dict[str, float] = {}
        self.others: dict[tuple[str, int], list[dict[str, Any]]] = {}
        groups = self._groups(sum(Path(f).stat().st_size for f in files.values()))
        for group in groups:
            problem = Problem(n, d, max(counts), self.limit, queries)
            self._start(group, problem)
            opened = self._open_all(group, files, {p.name: [rows[p.name, k] for k in counts] for p in group}, problem)
            asked: set[str] = set()
            for k in counts:
                self._interleaved(opened, k, rows, answers)
                for p in opened:  # now: one that dies at a larger count could not be asked any more
                    if p.name in self.workers and (p.name, k) in answers and p.name not in asked:
                        asked.add(p.name)
                        self._space(p, [rows[p.name, c] for c in counts], spaces)
            for p in opened:
                if p.name in self.workers and len(groups) > 1:
                    self.workers.pop(p.name).close()
        return list(rows.values()), answers, spaces

    def _groups(self, size: int) -> list[list[Provider]]:
        """All together if every worker can hold the features and as much again; else one after the other."""
        everyone = list(self.providers.values())
        running = sum(not p.missing(self.device) for p in everyone)
        free = available_bytes()
        if self.device != "cpu":
            import torch

            free = min(free, torch.cuda.mem_get_info(self.device)[0])
        if (2 * size + (1 << 30)) * running < free:
            return [everyone]
        return [[p] for p in everyone]

    def _start(self, group: list[Provider], problem: Problem) -> None:
        """Let all workers import their libraries at the same time, before anything is timed."""
        for p in group:
            if p.name not in self.workers and not (p.missing(self.device) or p.refuse(problem)):
                self.workers[p.name] = Worker(self.task, p.name, self.device, self.limit, self.memory_gb, self.plugin)

    def _open_all(self, group: list[Provider], files: dict[str, str], rows: dict[str, list[Row]],
                  problem: Problem) -> list[Provider]:  # fmt: skip
        """Those that could be opened. rows : of each."""

        def open_one(p: Provider) -> bool:
            return self._open(p, files, rows[p.name], problem)

        if not self.together:
            return [p for p in group if open_one(p)]
        threads = ThreadPoolExecutor(len(group))
        try:
            return [p for p, well in zip(group, threads.map(open_one, group), strict=True) if well]
        finally:  # after Ctrl-C nobody waits for those that still load: `close` ends them
            threads.shutdown(wait=False, cancel_futures=True)

    def _open(self, p: Provider, files: dict[str, str], rows: list[Row], problem: Problem) -> bool:
        reason = p.missing(self.device) or p.refuse(problem)
        if reason:
            for row in rows:
                row.status, row.message = "not run", reason
            return False
        try:
            patience = self.answer_s or _OPEN_TIMEOUT
            told = self.workers[p.name].ask(
                patience, do="load", files=files, seed=self.seed, counts=[r.k for r in rows]
            )
            self.first[p.name] = told["first_call_s"]
        except WorkerError as error:
            self._failed(p, rows, error)
            return False
        return True

    def _failed(self, p: Provider, rows: list[Row], error: WorkerError) -> None:
        self.workers.pop(p.name).close()
        for row in rows:
            row.status, row.message, row.peak_bytes = "failed", str(error), error.peak
        self.say(f"  {p.name:<22} failed: {error}")

    def _space(self, p: Provider, rows: list[Row], spaces: dict[str, dict[str, Any]]) -> None:
        out = str(self.folder / "space.npz")
        try:
            if self._ask(p, do="space", out=out)["own"]:
                spaces[p.name] = dict(np.load(out))
        except WorkerError as error:  # its picks cannot be judged
            self._failed(p, rows, error)

    def _ask(self, p: Provider, **request: Any) -> dict[str, Any]:
        return self.workers[p.name].ask(self.answer_s or 60.0 + 10 * self.limit_s, **request)

    def _interleaved(self, group: list[Provider], k: int, rows: dict, answers: dict) -> None:
        plans = {}
        for p in group:
            if p.name not in self.workers:
                rows[p.name, k].status, rows[p.name, k].message = "failed", "ended at an earlier count"
                continue
            if p.name in self.short:  # too slow for fewer picks than these: the same runs tell this time as well
                answers[p.name, k] = self.short[p.name].told(rows[p.name, k], k)
                continue
            try:
                if self.warm and not p.sequential:  # the plan of a sequential one has runs of its own
                    begin = self._ask(p, do="run", k=k, out=str(self.folder / "warm.npz"))["seconds"]
                    self.first[p.name] = max(self.first[p.name], begin)
                plans[p.name] = self._plan(p, k)
            except WorkerError as error:
                self._failed(p, [rows[p.name, k]], error)
        for turn in range(self.repeat):
            for p in group:
                row, plan = rows[p.name, k], plans.get(p.name)
                if plan is None or p.name not in self.workers or turn >= plan.runs:
                    continue
                try:
                    out = str(self.folder / f"answer-{next(self.counter)}.npz")
                    told = self._ask(p, do="run", k=plan.k, out=out)
                except WorkerError as error:
                    self._failed(p, [row], error)
                    answers.pop((p.name, k), None)
                    continue
                taken = told["seconds"]
                row.times_s.append(plan.whole(taken, k))
                differ = row.facts.get("runs_differ", False)
                row.k_timed, row.facts = plan.k, told["facts"]
                if self.warm:
                    row.facts["first_call_s"] = self.first[p.name]
                row.extra_bytes = max(row.extra_bytes, told["extra"])
                row.peak_bytes = max(row.peak_bytes, told["peak"])
                answer = dict(np.load(out))
                Path(out).unlink()
                known = answers.setdefault((p.name, k), answer)
                if differ or any(not np.array_equal(known[name], answer.get(name)) for name in known):
                    row.facts["runs_differ"] = True
                    self.others.setdefault((p.name, k), []).append(answer)
                shown = "~" if plan.k < k else ""
                self.say(f"  {p.name:<22} k = {k:,}: {shown}{row.times_s[-1]:.3f} s")
                self.told(list(rows.values()))
                if plan.k < k:
                    self.short.setdefault(p.name, _Short(plan, row, known)).seconds.append(taken)

    def _plan(self, p: Provider, k: int) -> _Plan:
        """How many picks to time and how often, so that a slow sequential provider stays within its time."""
        if not p.sequential:
            return _Plan(k, self.repeat)
        out = str(self.folder / "plan.npz")
        few = min(2, k)
        share = self.limit_s / self.repeat
        first = self._ask(p, do="run", k=few, out=out)["seconds"]
        if first < share:  # the first call of a size may pay for memory that later ones find
            first = min(first, self._ask(p, do="run", k=few, out=out)["seconds"])
        more = min(k, max(few + 2, min(64, int(0.2 * share / max(first / few, 1e-6)))))
        second = self._ask(p, do="run", k=more, out=out)["seconds"]
        while more < k and second <= 1.5 * first:  # mostly what comes before the first pick: picks are cheap
            more = min(k, 8 * more)
            second = self._ask(p, do="run", k=more, out=out)["seconds"]
        plan = _Plan(k, self.repeat, few, first)
        each = plan.each(second, more)
        whole = second + each * (k - more)
        if whole <= share or k <= more:
            return plan
        if whole <= self.limit_s:
            return _Plan(k, max(1, int(self.limit_s / whole)), few, first)
        timed = min(k, more + int(max(0.0, share - second) / each))
        return _Plan(timed, max(1, min(self.repeat, int(self.limit_s / (second + each * (timed - more))))), few, first)


@dataclass
class _Plan:
    """Picks to time, runs, and what is known of the cost that comes before the first pick.

    few, first : picks of the shortest run, and its seconds.
    """

    k: int
    runs: int
    few: int = 0
    first: float = 0.0

    def each(self, seconds: float, k: int) -> float:
        """Seconds for a further pick, from a run of k picks."""
        if k > self.few and seconds > 1.2 * self.first:
            return (seconds - self.first) / (k - self.few)
        return seconds / k  # too short a run to tell: nothing is taken off for what comes before the first pick

    def whole(self, seconds: float, k: int) -> float:
        """Seconds for k picks, from a run of self.k picks that took `seconds`."""
        return seconds + (self.each(seconds, self.k) * (k - self.k) if self.k < k else 0.0)


@dataclass
class _Short:
    """Runs of fewer picks than were asked for, which tell the times of more."""

    plan: _Plan
    row: Row
    answer: dict[str, Any]
    seconds: list[float] = field(default_factory=list)

    def told(self, row: Row, k: int) -> dict[str, Any]:
        """Fill the row of a larger count; returns the answer to check."""
        row.times_s = [self.plan.whole(s, k) for s in self.seconds]
        row.k_timed, row.facts = self.plan.k, dict(self.row.facts)
        row.extra_bytes, row.peak_bytes = self.row.extra_bytes, self.row.peak_bytes
        return self.answer
