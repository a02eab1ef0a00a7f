"""Nothing can be written: the disk is full, a quota is used up, a folder is read-only, a file outgrows its limit."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .commands import BY_NAME, FILES, FOLDERS, WRITERS, Command
from .engine import Fault, run_cell
from .moments import Strike

pytestmark = pytest.mark.usefixtures("no_drawing")


def refuse(number: int) -> Callable[[Any], None]:
    """The file system's answer, which knows the path where the call had one."""

    def act(path: Any) -> None:
        raise OSError(number, os.strerror(number), *([] if path is None else [os.fspath(path)]))

    return act


def broken(
    moment: str, code: int | None, nth: int = 1, again: bool = True, output: str = "OUTPUT|e.png|f.png"
) -> Fault:
    """The file system refuses at a moment; None: the file that was opened then is on a full disk."""
    name = f"{moment}{nth}-{'full' if code is None else errno.errorcode[code]}"
    says = os.strerror(code or errno.ENOSPC)
    act = None if code is None else refuse(code)
    # A picture that cannot be written is named by its image at the end, and the rest is there: 3.
    lasting = moment == "create" and act is not None  # another way to make the file is refused as well
    return Fault(name, (2, 3), (says, output), during=lambda *_: Strike(moment, nth, act, lasting).active(),
                 old=moment != "folder", again=again)  # fmt: skip


CODES: dict[str, tuple[int | None, ...]] = {
    "create": (None, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EMFILE),
    "flush": (errno.EDQUOT, errno.ENOSPC, errno.EIO),
    "rename": (errno.EACCES, errno.EIO),
    "folder": (errno.EACCES, errno.ENOSPC),
}
# Every moment with every error (the first alone where a run is long); of many files, the second as well as the first.
CELLS: list[tuple[Command, Fault]] = [
    (command, broken(moment, code, again=not command.costly or code is None))
    for command in WRITERS
    for moment, codes in CODES.items()
    if moment in command.moments
    for code in (codes[:1] if command.costly else codes)
]
SECOND = (("create", None), ("flush", errno.EIO), ("rename", errno.EACCES))
CELLS += [(command, broken(moment, code, 2, again=False)) for command in FOLDERS for moment, code in SECOND]
CELLS += [(BY_NAME["select-indices"], broken(moment, code, 2, output="rows")) for moment, code in SECOND]


@pytest.mark.parametrize(("command", "fault"), CELLS, ids=[f"{c.name}-{f.name}" for c, f in CELLS])
def test_refused(root: Path, command: Command, fault: Fault) -> None:
    run_cell(root, command, fault)


LIMITED = [command for command in FILES if command.name != "export"]  # the first limit would stop what torch writes


@pytest.mark.parametrize("limit", [1, 700])
@pytest.mark.parametrize("command", LIMITED, ids=lambda c: c.name)
def test_a_file_that_may_not_grow(root: Path, command: Command, limit: int) -> None:
    # Unlike a full disk this stops in the middle of a file, whoever writes it; Python ignores the signal (SIGXFSZ).
    run_cell(root, command, Fault(f"limit-{limit}", (2,), (os.strerror(errno.EFBIG), "OUTPUT"), during=limited(limit)))


def limited(size: int) -> Callable[[Path, Command], AbstractContextManager[None]]:
    """RLIMIT_FSIZE of this process, and back."""

    @contextmanager
    def during(root: Path, command: Command) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return during


@pytest.mark.parametrize("name", ["predict", "evaluate"])
def test_scores_are_there_when_a_picture_cannot_be_written(root: Path, name: str) -> None:
    command, met = BY_NAME[name], Strike("", 0, None)
    run_cell(root, command, Fault("none", (0,), during=lambda *_: met.active(), again=False))
    shutil.rmtree(root / "made")
    run_cell(root, command, broken("create", None, met.seen["create"] - 1, again=False))  # the last picture
    assert len((root / "made/scores.csv").read_text().splitlines()) == 3
