"""The pairs examples/*_before.py and *_after.py show what changes for a user: one line; a few for another method."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name.removesuffix("_before.py") for path in EXAMPLES.glob("*_before.py"))
ELFS = ("amazon", "anomalib")  # *_elfs_after.py: the same script with another method, not a drop-in


def code(name: str) -> list[str]:
    """The lines of a script without its docstring and without blank lines."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    docstring = ast.parse(text).body[0]
    assert isinstance(docstring, ast.Expr), f"{name} begins with a docstring that says how to run it"
    return [line for line in text.splitlines()[docstring.end_lineno :] if line.strip()]


def test_there_are_pairs_for_every_peer():
    assert {"active_learning", "amazon", "anomalib", "deepcore", "indad", "softpatch"} <= set(NAMES)
    afters = {path.name.removesuffix("_after.py") for path in EXAMPLES.glob("*_after.py")}
    assert afters == set(NAMES) | {f"{name}_elfs" for name in ELFS}


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


@pytest.mark.parametrize(("name", "removed", "added"), [("amazon", 3, 5), ("anomalib", 0, 11)], ids=ELFS)
def test_another_method_changes_the_sampler_alone(name, removed, added):
    """Nothing of the model, the data or the score."""
    difference = list(difflib.ndiff(code(f"{name}_before.py"), code(f"{name}_elfs_after.py")))
    gone, new = ([line[2:] for line in difference if line.startswith(sign)] for sign in ("- ", "+ "))
    assert (len(gone), len(new)) == (removed, added), difference
    assert all("ampler" in line for line in gone), "nothing else goes"
    assert "from patchcore_fast.samplers import ELFSCoresetSampler" in new
    whole = ast.parse((EXAMPLES / f"{name}_elfs_after.py").read_text(encoding="utf-8"))
    calls = [
        x for x in ast.walk(whole) if isinstance(x, ast.Call) and getattr(x.func, "id", "") == "ELFSCoresetSampler"
    ]
    assert len(calls) == 1, "made once"


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}_elfs" for name in ELFS)])
def test_docstrings_say_how_to_run_them(name):
    before = () if name.endswith("_elfs") else (f"{name}_before.py",)
    for script in (*before, f"{name}_after.py"):
        docstring = ast.get_docstring(ast.parse((EXAMPLES / script).read_text(encoding="utf-8"))) or ""
        commands = [line for line in docstring.splitlines() if "python " in line]
        assert any(script in line for line in commands), f"{script}: no command line in {docstring!r}"
