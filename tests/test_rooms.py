"""The test of any file is found without searching: by its name, or in the table of tests/README.md."""

from __future__ import annotations

import re
from pathlib import Path

from .imports import sources

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "patchcore_fast"


def table() -> dict[str, str]:
    """'room/file' of the package -> 'room/test_...' that the README names."""
    found = {}
    for room, cells in re.findall(r"^\| `([\w/.]+)` \| (.+) \|$", (TESTS / "README.md").read_text(), re.MULTILINE):
        for entry in cells.replace("\\", "").split("; "):
            files, test = entry.split(": ")
            for file in files.split(", "):
                found[str(Path(room, file))] = test if "/" in test else str(Path(room, test))
    return found


def test_every_file_has_a_test_where_the_readme_says():
    listed = table()
    for path in sources(PACKAGE):
        place = path.relative_to(PACKAGE).with_suffix("")
        if path.stem == "__init__" or place.parts[0] == "kernels":
            continue
        room = TESTS / place.parent
        named = any(room.glob(f"test_{path.stem}*.py"))
        assert not (named and str(place) in listed), f"tests/README.md need not name {place}: its test has its name"
        own = (room / f"test_{room.name}.py").exists()
        assert named or own or str(place) in listed, f"tests/README.md does not say where {place} is tested"
    for file, test in listed.items():
        assert (PACKAGE / f"{file}.py").is_file(), f"tests/README.md names {file}, which is no file"
        assert (TESTS / f"{test}.py").is_file(), f"tests/README.md names {test}, which is no test"
