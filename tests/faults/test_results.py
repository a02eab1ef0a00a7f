"""Results of somebody else: report reads JSON, tables and pictures that may be damaged, or meant to harm."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .commands import BY_NAME
from .engine import Fault, run_cell
from .rights import locked
from .test_inputs import CONTENTS, KINDS

REPORT = BY_NAME["report"]
RECORD = "done/report.json"
INJECTED = "<img src=q onerror=alert(1)>"


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values of a JSON document; of lists, the first item."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*at, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*at, 0))
    else:
        yield at


def put(document: Any, at: tuple[Any, ...], new: Any) -> Any:
    """A copy with one value exchanged."""
    document = copy.deepcopy(document)
    inner = document
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return document


@pytest.mark.parametrize("name", [*CONTENTS, *KINDS, "brackets", "list", "unreadable"])
def test_record(root: Path, name: str) -> None:
    shutil.copy(root / RECORD, root / "tmp/kept")
    more: dict[str, Callable[[Path], Any]] = {
        "brackets": lambda p: p.write_text("[" * 100_000),
        "list": lambda p: p.write_text("[1, 2]"),
        "unreadable": lambda p: None,
    }
    during: Any = (lambda r, _: locked(r / RECORD, 0)) if name == "unreadable" else None

    def mend(root: Path, _: Any) -> None:
        if (root / RECORD).is_dir():
            (root / RECORD).rmdir()
        (root / RECORD).unlink(missing_ok=True)
        shutil.copy(root / "tmp/kept", root / RECORD)

    run_cell(root, REPORT, Fault(name, (2,), ("report.json",), lambda r, _: (more | CONTENTS | KINDS)[name](r / RECORD),
                                 mend, during))  # fmt: skip


@pytest.mark.parametrize("new", [INJECTED, None, -1e308, [], {"a": INJECTED}, "../../f.npy", "/etc/hostname"], ids=repr)
def test_every_value_of_the_record(root: Path, new: Any) -> None:
    """Another value anywhere makes a page without it, or one line of error; never markup, nor a file from elsewhere."""
    document = json.loads((root / RECORD).read_text())
    wrong = []
    for at in leaves(document):
        (root / RECORD).write_text(json.dumps(put(document, at, new)))
        try:
            run_cell(root, REPORT, Fault("value", (0, 2), old=False, again=False))
            if (root / "made.html").exists():
                assert INJECTED not in (root / "made.html").read_text(), "markup"
        except AssertionError as error:
            wrong.append(f"{at}: {str(error)[:300]}")
        (root / "made.html").unlink(missing_ok=True)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", [*CONTENTS, *KINDS])
def test_picture(root: Path, name: str) -> None:
    """A picture of the results is damaged: said, or shown as missing."""
    picture = sorted((root / "done/layers").rglob("*.png"))[0]
    (CONTENTS | KINDS)[name](picture)
    run_cell(root, REPORT, Fault(name, (0, 2, 3), again=False))
