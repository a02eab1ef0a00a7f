"""benchmarks/ as a package: rooms that say what is in them, scripts that run from the root, one writer of JSON."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.harness import records

BENCHMARKS = ROOT / "benchmarks"
ROOMS = sorted(path.parent for path in BENCHMARKS.glob("*/__init__.py"))
SOURCES = {path: path.read_text(encoding="utf-8") for path in BENCHMARKS.rglob("*.py")}
SAYS = "import json, sys, patchcore_fast as p; print(json.dumps([p.__file__, sys.path]))"
SCRIPTS = {path: text for path, text in SOURCES.items() if "\ndef main(" in text}


def test_every_room_says_what_is_in_it() -> None:
    rooms = (BENCHMARKS / "README.md").read_text()
    for room in ROOMS:
        readme = (room / "README.md").read_text()
        assert f"]({room.name}/README.md)" in rooms
        for path in room.glob("*.py"):
            assert path.stem == "__init__" or f"`{path.stem}" in readme, f"{path.stem} is not in {room.name}/README.md"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_gives_its_command(path: Path) -> None:
    said = ast.get_docstring(ast.parse(SCRIPTS[path])) or ""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert f"python -m {name}" in said or (path.stem == "run" and "bash benchmarks/gpu.sh" in said)


def test_only_records_writes_json() -> None:
    """Others may print it: what a process tells the one that started it."""
    writers = [path.stem for path, text in SOURCES.items() if "json.dump(" in text or "f.write(json" in text]
    assert writers == [] and "atomic_write(path" in SOURCES[BENCHMARKS / "harness" / "records.py"]


def test_results_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    records.write(path, {"benchmark": "b", "cells": [{"a": 1 / 3}, {"a": float("nan")}], "x": []}, lines=["cells"])
    assert path.read_text().count("\n  {") == 2
    assert records.read(path)["cells"] == [{"a": 0.333333}, {"a": None}]
    records.write(path, {"benchmark": "b", "x": 1 / 3}, schema=None)
    assert json.loads(path.read_text()) == {"benchmark": "b", "x": 1 / 3}
    with pytest.raises(SystemExit, match="schema 2 is wanted, got None"):
        records.read(path)


@pytest.mark.parametrize("asked, found", [([], "site"), ([""], "")], ids=["installed", "PYTHONPATH"])
def test_an_installed_package_is_not_hidden_by_the_checkout(tmp_path: Path, asked: list[str], found: str) -> None:
    """`python -m` puts the checkout first; what is installed, `site` here, must come before it, and it stays there."""
    for folder in ("benchmarks", "patchcore_fast", "site/patchcore_fast"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "benchmarks" / "__init__.py").write_text(SOURCES[BENCHMARKS / "__init__.py"])
    (tmp_path / "benchmarks" / "a.py").write_text(SAYS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(tmp_path / folder) for folder in [*asked, "site"])}
    command = [sys.executable, "-m", "benchmarks.a"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, path = json.loads(done.stdout)
    assert Path(file).parent == (tmp_path / found / "patchcore_fast").resolve() and str(tmp_path) in path
