"""One cell: run a command under a fault, then ask everything that must hold afterwards.

Whatever the fault: an exit code of the table (0 done, 2 one line for the user, 3 done but for some inputs, 130 Ctrl-C,
141 nobody reads, 143 SIGTERM), no traceback, no hang, no file half-written, no older file lost, no litter, nothing
changed besides the output, no process left; and once the fault is gone, the same command succeeds in the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import run
from .commands import Command, older
from .place import Entry, below, changed, is_litter, snapshot, why_broken

Prepare = Callable[[Path, Command], Any]


@dataclass(frozen=True)
class Fault:
    """What breaks, and how the command has to end.

    codes : exit codes that are right.
    says : each of these is on stderr, in any case of letters ("a|b": one of them); OUTPUT stands for the output's
        name without its suffix.
    prepare, mend : change the surroundings before the run, and back before the later one.
    during : context of a run in this process; what it gives has `fired`, true once the fault was met.
    child : settings of a run in a process of its own (`zygote`), for faults that this one would not survive.
    argv : other arguments than the command's.
    outputs : may change besides the command's own.
    litter : unfinished files may stay until the next run (nobody cleans up after SIGKILL).
    old : an older result lies at the output.
    again : run a second time without the fault.
    silent : stderr cannot be read.
    keeps : a command that fails leaves older files as they were; not so where it fails after its work.
    """

    name: str
    codes: tuple[int, ...]
    says: tuple[str, ...] = ()
    prepare: Prepare | None = None
    mend: Prepare | None = None
    during: Callable[[Path, Command], AbstractContextManager[Any]] | None = None
    child: dict[str, Any] | None = None
    argv: Callable[[Command], tuple[str, ...]] | None = None
    outputs: tuple[str, ...] = ()
    litter: bool = False
    old: bool = True
    again: bool = True
    silent: bool = False
    keeps: bool = True


def run_cell(root: Path, command: Command, fault: Fault, zygote: Any = None) -> run.Result:
    """Run and check; AssertionError says what does not hold, with what the command said."""
    if fault.old:
        older(root, command)
    if fault.prepare is not None:
        fault.prepare(root, command)
    argv = command.argv if fault.argv is None else fault.argv(command)
    before = snapshot(root)
    met = True
    if fault.child is not None:
        result = zygote.run(root, argv, **fault.child)
    else:
        with nullcontext() if fault.during is None else fault.during(root, command) as strike:
            result = run.here(root, argv)
        met = getattr(strike, "fired", True) or not getattr(strike, "moment", "")
    assert met, f"the fault was never met: {result}"
    after = snapshot(root)
    check_end(result, fault, Path(command.output).stem if command.outputs else "")
    check_files(root, command, fault, result, before, after)
    if fault.mend is not None:
        fault.mend(root, command)
    if fault.again and not (command.resumes and fault.mend):  # what was mended is another input
        check_later(root, command, replace(fault, litter=False), argv)
    return result


def check_end(result: run.Result, fault: Fault, output: str) -> None:
    """Exit code and words."""
    assert not result.hung, f"no end: {result}"
    assert "Traceback" not in result.err and "Exception ignored" not in result.err, result
    assert result.code in fault.codes, f"exit code {result.code}, wanted one of {fault.codes}: {result}"
    assert not result.children, f"processes left behind: {result.children}"
    if result.code == 2 and not fault.silent:
        *notes, error = result.err.splitlines(keepends=True)  # a note may say what is there all the same
        assert error.startswith("patchcore-fast: error: ") and error.endswith("\n"), result
        assert all(n.startswith("patchcore-fast: ") and not n.startswith("patchcore-fast: error") for n in notes), (
            result
        )
        assert ".part" not in result.err, f"the name of a temporary file: {result}"
    if result.code in (2, 3) and not fault.silent:
        said = (result.err if result.code == 2 else result.out + result.err).lower()  # check prints what it finds
        for words in fault.says:
            any_of = words.replace("OUTPUT", output).lower().split("|")
            assert any(w in said for w in any_of), f"does not say {words!r}: {result}"


def check_files(
    root: Path, command: Command, fault: Fault, result: run.Result, before: dict[str, Entry], after: dict[str, Entry]
) -> None:
    """What was there is there, what came is whole, and nothing else changed."""
    outputs = (*command.outputs, *command.beside, *fault.outputs)
    for name in changed(before, after):
        if is_litter(name) and name not in before:
            assert fault.litter, f"left behind: {name}; {result}"
            continue
        assert below(name, outputs), f"changed, and is no output: {name}: {before.get(name)} -> {after.get(name)}"
        if below(name, fault.outputs) and name not in after:
            continue
        assert name in after, f"gone: {name}"
        kind, was = after[name][0], before.get(name, after[name])[0]
        assert kind == was, f"{name} was a {was} and is a {kind}"
        # What watch could not read lies in a folder of its own, broken as it came.
        as_it_came = below(name, (f"{command.outputs[0]}/unreadable",)) and after[name] in before.values()
        if kind == "file" and not as_it_came:
            broken = why_broken(name, (root / name).read_bytes())
            assert broken is None, f"{name} is not whole ({broken}); {result}"
    if result.code == 2 and fault.keeps and len(command.outputs) == 1 and not command.folder:
        for name in before:
            assert not below(name, outputs) or before[name] == after.get(name), f"failed, and changed {name}"


def check_later(root: Path, command: Command, fault: Fault, argv: tuple[str, ...]) -> None:
    """Without the fault, in the same folder."""
    before = snapshot(root)
    result = run.here(root, argv)
    assert result.code == 0 and not result.hung, f"a later run failed: {result}"
    after = snapshot(root)
    check_files(root, command, fault, result, {k: v for k, v in before.items() if not _stale(k, after)}, after)
    for name in command.outputs:
        assert os.path.exists(root / name), f"a later run wrote no {name}"
    left = [name for name in after if is_litter(name) and below(os.path.dirname(name) or ".", (".", *command.outputs))]
    assert not left, f"a later run left {left}"
    if command.folder:
        table = (root / command.output / command.table).read_bytes()
        assert table != b"older\n", f"a later run kept the older {command.table}"


def _stale(name: str, after: dict[str, Entry]) -> bool:
    """Litter of a killed run that the later one removed."""
    return is_litter(name) and name not in after
