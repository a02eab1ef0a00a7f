"""What lies at the output already: a folder, a link, a pipe, a device, somebody's private file, nothing at all."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .commands import BY_NAME, FOLDERS, NEW, Command, replaced
from .engine import Fault, run_cell
from .place import why_broken
from .rights import locked, make_device
from .test_writes import broken

pytestmark = pytest.mark.usefixtures("no_drawing")


def moved(where: str, name: str, codes: tuple[int, ...], *says: str, outputs: tuple[str, ...] = ()) -> Fault:
    """The output is elsewhere; `where` has {} for its name."""
    return Fault(name, codes, says, argv=lambda c: replaced(c, c.output, where.format(c.output)), outputs=outputs,
                 again=False)  # fmt: skip


def link_to_older(root: Path, command: Command) -> None:
    (root / "kept").mkdir()
    (root / "kept" / command.output).write_bytes(b"older\n")
    (root / command.output).symlink_to(f"kept/{command.output}")


def dangling(root: Path, command: Command) -> None:
    (root / "kept").mkdir()
    (root / command.output).symlink_to(f"kept/{command.output}")


def private(root: Path, command: Command) -> None:
    (root / command.output).write_bytes(b"older\n")
    (root / command.output).chmod(0o600)


def as_folder(root: Path, command: Command) -> None:
    (root / command.output).mkdir()
    (root / command.output / "mine.txt").write_text("mine")


def device(minor: int) -> Callable[[Path, Command], None]:
    def prepare(root: Path, command: Command) -> None:
        if not make_device(root / command.output, minor):
            pytest.skip("no right to make a device")

    return prepare


def pipe(root: Path, command: Command) -> None:
    os.mkfifo(root / command.output)


@contextmanager
def with_reader(root: Path, command: Command) -> Iterator[None]:
    """Somebody reads the pipe, and gets the whole file."""
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((root / command.output).read_bytes()), daemon=True)
    reader.start()
    yield
    reader.join(2)
    assert got and why_broken(command.output, got[0]) is None, "what came through the pipe is not whole"


@contextmanager
def read_only(root: Path, command: Command) -> Iterator[None]:
    (root / "locked").mkdir()
    with locked(root / "locked", 0o555):
        yield


def test_modes_and_links(root: Path) -> None:
    """What the rows below allow, said once exactly: the link's target is new and its mode is kept."""
    command = BY_NAME["select"]
    link_to_older(root, command)
    (root / "kept/made.npy").chmod(0o640)
    run_cell(root, command, Fault("link", (0,), old=False, outputs=("kept",)))
    assert (root / "made.npy").is_symlink() and why_broken("x.npy", (root / "kept/made.npy").read_bytes()) is None
    assert stat.S_IMODE((root / "kept/made.npy").stat().st_mode) == 0o640


LOCKED = Fault("locked", (2,), ("locked",), during=read_only, outputs=("locked",), again=False,
               argv=lambda c: replaced(c, c.output, f"locked/{c.output}"))  # fmt: skip
OF_FILES = (
    moved("no/{}", "folder-missing", (2,), "no"),
    moved("f.npy/{}", "below-a-file", (2,), "f.npy"),
    moved("tmp/../{}", "dots", (0,)),
    LOCKED,
    Fault("is-a-folder", (2,), ("made", "folder"), prepare=as_folder, old=False, again=False),
    Fault("link", (0,), prepare=link_to_older, old=False, outputs=("kept",)),
    Fault("link-full-disk", (2,), ("no space left",), prepare=link_to_older, during=broken("create", None).during,
          old=False, outputs=("kept",)),
    Fault("dangling-link", (0, 2), prepare=dangling, old=False, outputs=("kept",), again=False),
    Fault("private", (0,), prepare=private, old=False),
    Fault("null", (0,), prepare=device(3), old=False, again=False),
    Fault("full", (2,), ("no space left", "made"), prepare=device(7), old=False, again=False),
    Fault("pipe", (0,), prepare=pipe, during=with_reader, old=False, again=False),
)  # fmt: skip
FILE_CELLS = [(c, f) for c in NEW for f in OF_FILES if not c.costly or f.name in ("locked", "link", "pipe", "null")]


@pytest.mark.parametrize(("command", "fault"), FILE_CELLS, ids=[f"{c.name}-{f.name}" for c, f in FILE_CELLS])
def test_file(root: Path, command: Command, fault: Fault) -> None:
    result = run_cell(root, command, fault)
    if fault.name == "private":
        assert stat.S_IMODE((root / command.output).stat().st_mode) == 0o600
    if fault.name == "link":
        assert why_broken(command.output, (root / "kept" / command.output).read_bytes()) is None, result


def file_there(root: Path, command: Command) -> None:
    (root / command.output).write_bytes(b"mine")


def link_to_folder(root: Path, command: Command) -> None:
    (root / "kept").mkdir()
    (root / command.output).symlink_to("kept")


def link_inside(root: Path, command: Command) -> None:
    (root / "kept").write_bytes(b"older\n")
    (root / command.output).mkdir()
    (root / command.output / command.table).symlink_to("../kept")


def folder_inside(root: Path, command: Command) -> None:
    (root / command.output / command.table).mkdir(parents=True)


def gone(root: Path, command: Command) -> None:
    shutil.rmtree(root / command.output)


OF_FOLDERS = (
    moved("tmp2/a/{}", "parents", (0,), outputs=("tmp2",)),
    moved("f.npy/{}", "below-a-file", (2,), "f.npy"),
    LOCKED,
    Fault("is-a-file", (2,), ("made", "file"), prepare=file_there, old=False, again=False),
    Fault("link", (0,), prepare=link_to_folder, old=False, outputs=("kept",), again=False),
    Fault("dangling-link", (0, 2), prepare=dangling, old=False, outputs=("kept",), again=False),
    Fault("pipe", (2,), ("made",), prepare=pipe, old=False, again=False),
    Fault("null", (2,), ("made",), prepare=device(3), old=False, again=False),
    Fault("link-inside", (0,), prepare=link_inside, old=False, outputs=("kept",), again=False),
    Fault("folder-inside", (2,), ("made",), prepare=folder_inside, mend=gone, old=False, again=False),
)
FOLDER_CELLS = [(c, f) for c in FOLDERS for f in OF_FOLDERS if not (c.resumes and f.name == "link-inside")]


@pytest.mark.parametrize(("command", "fault"), FOLDER_CELLS, ids=[f"{c.name}-{f.name}" for c, f in FOLDER_CELLS])
def test_folder(root: Path, command: Command, fault: Fault) -> None:
    run_cell(root, command, fault)


TWICE = (
    ("select", (*BY_NAME["select"].argv, "--indices", "made.npy")),
    ("select", (*BY_NAME["select"].argv, "--indices", "tmp/../made.npy")),
    ("evaluate", (*BY_NAME["evaluate"].argv, "--json", "made")),
    ("evaluate", (*BY_NAME["evaluate"].argv, "--json", "made/metrics.json")),
    ("evaluate", (*BY_NAME["evaluate"].argv, "--json", "made/scores.csv")),
)


@pytest.mark.parametrize(("name", "argv"), TWICE, ids=[" ".join(argv[-3:]) for _, argv in TWICE])
def test_two_outputs_on_one_path(root: Path, name: str, argv: tuple[str, ...]) -> None:
    run_cell(root, BY_NAME[name], Fault("twice", (2,), ("made",), argv=lambda _: argv, again=False))
