"""stdout and stderr: closed, with a reader that is gone, full, or of an encoding that lacks the letters."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import run
from .commands import BY_NAME, COMMANDS, Command, replaced
from .engine import Fault, check_files, run_cell
from .place import snapshot
from .zygote import Zygote

# Without the descriptor nobody asked for words, so that the work alone counts: 0 and 141 are both right.
OUT = {"closed": (0, 141), "gone": (141,), "full": (2,)}
CELLS = [
    (command, Fault(f"stdout-{what}", codes, ("no space left",) if what == "full" else (), again=False,
                    child={"out": what}, keeps=what != "full"))
    for what, codes in OUT.items()
    for command in COMMANDS
    if not command.costly or what == "gone"
]  # fmt: skip


@pytest.mark.parametrize(("command", "fault"), CELLS, ids=[f"{c.name}-{f.name}" for c, f in CELLS])
def test_stdout(root: Path, zygote: Zygote, command: Command, fault: Fault) -> None:
    result = run_cell(root, command, fault, zygote)
    if fault.name == "stdout-gone":
        assert result.err == "", "the reader left: that is no error to speak of"


@pytest.mark.parametrize("what", ["closed", "gone", "full"])
@pytest.mark.parametrize("name", ["select", "predict", "check"])
def test_stderr_of_an_error(root: Path, zygote: Zygote, name: str, what: str) -> None:
    first = BY_NAME[name].argv[1]
    fault = Fault("error", (2,), child={"err": what}, argv=lambda c: replaced(c, first, "missing"), silent=True,
                  again=False)  # fmt: skip
    result = run_cell(root, BY_NAME[name], fault, zygote)
    assert result.out == "", "words for stderr went to stdout"


@pytest.mark.parametrize("what", ["closed", "gone", "full"])
@pytest.mark.parametrize("name", ["select", "fit"])
def test_stderr_of_a_success(root: Path, zygote: Zygote, name: str, what: str) -> None:
    run_cell(root, BY_NAME[name], Fault("success", (0,), child={"err": what}, silent=True, again=False), zygote)


@pytest.mark.parametrize("name", ["fit", "predict", "evaluate-json", "select", "report", "check", "doctor"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_letters_that_stdout_lacks(root: Path, no_drawing: None, name: str, encoding: str) -> None:
    command = BY_NAME[name]
    (root / "data").rename(root / "дата-画像")
    (root / "f.npy").rename(root / "ф.npy")
    (root / "done").rename(root / "готово")
    there = {"data": "дата-画像", "data/test": "дата-画像/test", "f.npy": "ф.npy", "done": "готово"}
    argv = [there.get(part, part) for part in command.argv]
    before = snapshot(root)
    result = run.here(root, argv, out=run.stream(encoding))
    assert result.code == 0 and "Traceback" not in result.err, result
    check_files(root, command, Fault("letters", (0,)), result, before, snapshot(root))
    argv = [part + "-нет" if part == argv[1] else part for part in argv] if argv[1:] else ["нет"]
    failed = run.here(root, argv, out=run.stream(encoding), err=run.stream(encoding, "backslashreplace"))
    assert failed.code == 2 and "Traceback" not in failed.err, failed
