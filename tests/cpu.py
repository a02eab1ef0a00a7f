"""`python -m pytest -p tests.cpu ...` says CPU seconds by room, file and test. They change little on a busy machine.

Counted are a process of pytest, what runs below it and what that has waited for.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

MOST = 30  # files, and tests, that are shown
SINCE = pytest.StashKey[float]()


def of_children(pid: int) -> float:
    """Of the living children of a process, of theirs, and of those that they have waited for."""
    found = 0.0
    with suppress(OSError):  # one has ended in the meantime
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                ticks = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:15]
                found += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") + of_children(int(child))
    return found


def used() -> float:
    """Until now."""
    own, waited_for = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + waited_for.ru_utime + waited_for.ru_stime + of_children(os.getpid())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    item.stash[SINCE] = used()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """A shared fixture counts for the test that asked for it first."""
    report = yield
    now = used()
    report.cpu, item.stash[SINCE] = now - item.stash[SINCE], now  # what a report has goes to xdist's controller with it
    return report


class Sums:
    """In the process that reports."""

    def __init__(self) -> None:
        self.tests: Counter[str] = Counter()
        self.workers = 0.0

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.tests[report.nodeid] += report.cpu

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.workers += getattr(node, "workeroutput", {}).get("cpu", 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        files, rooms = Counter[str](), Counter[str]()
        for test, seconds in self.tests.items():
            file = test.partition("::")[0]
            files[file] += seconds
            rooms[file.rpartition("/")[0]] += seconds
        for name, sums in (("room", rooms), ("file", files), ("test", self.tests)):
            terminalreporter.section(f"CPU seconds by {name}")
            for what, seconds in sums.most_common(None if sums is rooms else MOST):
                terminalreporter.write_line(f"{seconds:8.1f}  {what}")
        own = resource.getrusage(resource.RUSAGE_SELF)
        everything = self.workers + own.ru_utime + own.ru_stime if self.workers else used()
        terminalreporter.write_line(
            f"{everything:8.1f}  in all, {everything - self.tests.total():.1f} outside of tests"
        )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workeroutput"):
        config.pluginmanager.register(Sums())


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["cpu"] = used()
