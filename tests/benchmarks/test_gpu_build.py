"""gpu/build.py: which ways it takes, in which order, and what it says. Nothing is built here."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import build


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """machine(works): `works(way, cuda)` says whether a way succeeds; gives what was tried."""
    tried: list[tuple[str, str]] = []

    def made(works: Any, states: tuple[str, ...] = ("built without CUDA", "ready")) -> list[tuple[str, str]]:
        left = list(states)

        def go(command: list[str], **options: Any) -> subprocess.CompletedProcess:
            env = options["env"]
            assert env["PIP_NO_INDEX"] == "1" and env["PIP_DISABLE_PIP_VERSION_CHECK"] == "1"
            way = "pip" if "pip" in command else "direct"
            tried.append((way, env["PATCHCORE_FAST_CUDA"]))
            return subprocess.CompletedProcess(command, 0 if works(way, env["PATCHCORE_FAST_CUDA"]) else 1)

        monkeypatch.setattr(build, "state", lambda: ("90", left.pop(0)))
        monkeypatch.setattr(build, "lacking", lambda env: ["nvcc"])
        monkeypatch.setattr(build.subprocess, "run", go)
        return tried

    return made


def test_ready_builds_nothing(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tried = machine(lambda way, cuda: True, ("ready",))
    build.main([])
    assert tried == [] and "compute capability 9.0 are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    "works, tried, said",
    [
        (lambda way, cuda: True, [("pip", "1")], None),
        (lambda way, cuda: way == "direct", [("pip", "1"), ("direct", "1")], None),
        (lambda way, cuda: cuda == "0", [("pip", "1"), ("direct", "1"), ("pip", "0")], "installed by pip"),
        (lambda way, cuda: (way, cuda) == ("direct", "0"),
         [("pip", "1"), ("direct", "1"), ("pip", "0"), ("direct", "0")], "installed by setup.py's build"),
        (lambda way, cuda: False, [("pip", "1"), ("direct", "1"), ("pip", "0"), ("direct", "0")], "failed too"),
    ],
    ids=["pip", "setup.py", "without CUDA", "setup.py without CUDA", "nothing"],
)  # fmt: skip
def test_each_way_where_the_one_before_failed(
    works: Any, tried: list, said: str | None, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = machine(works)
    if said is None:
        with pytest.raises(SystemExit) as end:
            build.main([])
        assert end.value.code is None
    else:
        with pytest.raises(SystemExit, match=f"the CUDA build failed; without it: {said}"):
            build.main([])
    assert seen == tried
    out = capsys.readouterr().out
    assert out.index("MISSING here: nvcc") < out.index("building for 90")


def test_built_and_yet_not_there(machine: Any) -> None:
    machine(lambda way, cuda: True, ("no module", "driver too old"))
    with pytest.raises(SystemExit, match="built, and yet: driver too old"):
        build.main([])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    told = build.lacking({"PATH": ""})
    assert told[0] == f"{tmp_path / 'Python.h'} (headers of this Python)"
    assert told[1:] == ["a C++ compiler (g++)", "cmake", "ninja", "pybind11", "setuptools", "nvcc"]


def test_a_toolkit_without_the_static_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    told = build.lacking({"PATH": "", "CUDACXX": str(nvcc)})
    assert told[-1].startswith("libcudart_static.a (looked for under ")
    (tmp_path / "cuda" / "lib64").mkdir()
    (tmp_path / "cuda" / "lib64" / "libcudart_static.a").touch()
    assert not any("cudart" in what for what in build.lacking({"PATH": "", "CUDACXX": str(nvcc)}))


def test_the_direct_build_calls_what_setup_has() -> None:
    tree = ast.parse(build.DIRECT)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == "setup"}  # fmt: skip
    functions = {node.name for node in ast.parse((build.ROOT / "setup.py").read_text()).body
                 if isinstance(node, ast.FunctionDef)}  # fmt: skip
    assert used - {"toolkit"} and used - {"toolkit"} <= functions
