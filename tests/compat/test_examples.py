"""The pairs examples/*_before.py and *_after.py show what changes for a user: one line."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name.removesuffix("_before.py") for path in EXAMPLES.glob("*_before.py"))


def code(name: str) -> list[str]:
    """The lines of a script without its docstring and without blank lines."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    docstring = ast.parse(text).body[0]
    assert isinstance(docstring, ast.Expr), f"{name} begins with a docstring that says how to run it"
    return [line for line in text.splitlines()[docstring.end_lineno :] if line.strip()]


def test_there_are_pairs_for_every_peer():
    assert {"active_learning", "amazon", "anomalib", "deepcore", "indad", "softpatch"} <= set(NAMES)
    assert {path.name.removesuffix("_after.py") for path in EXAMPLES.glob("*_after.py")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_one_line_differs(name):
    difference = [
        line
        for line in difflib.ndiff(code(f"{name}_before.py"), code(f"{name}_after.py"))
        if line.startswith(("- ", "+ "))
    ]
    removed, added = ([line[2:] for line in difference if line[0] == sign] for sign in "-+")
    assert len(added) == 1 and len(removed) <= 1, difference
    assert "patchcore_fast.compat" in added[0] and "patchcore_fast.compat" not in "".join(removed)


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_say_how_to_run_them(name):
    for script in (f"{name}_before.py", f"{name}_after.py"):
        docstring = ast.get_docstring(ast.parse((EXAMPLES / script).read_text(encoding="utf-8"))) or ""
        commands = [line for line in docstring.splitlines() if "python " in line]
        assert any(script in line for line in commands), f"{script}: no command line in {docstring!r}"
