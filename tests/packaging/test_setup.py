"""The build: when it is left out, when it fails, with which flags, and that no kernel leaks out of its own file."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
captured: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("patchcore_fast_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_setup()
needs_tools = pytest.mark.skipif(build.missing(os.environ) is not None, reason=str(build.missing(os.environ)))


def without(*names: str, **settings: str) -> dict[str, str]:
    """This environment without those variables, and with these settings; no CUDA, which has test_toolkit.py."""
    ours = ("CXX", "PATCHCORE_FAST_NATIVE", "PATCHCORE_FAST_CUDA_ARCHS", "PATCHCORE_FAST_LOCAL_VERSION")
    kept = {name: value for name, value in os.environ.items() if name not in {*names, *ours}}
    return kept | {"PATCHCORE_FAST_CUDA": "0"} | settings


@pytest.mark.parametrize("variable", ["PATCHCORE_FAST_NATIVE", "PATCHCORE_FAST_CUDA"])
def test_mode(variable: str) -> None:
    for env, mode in (({}, "auto"), ({variable: ""}, "auto"), *(({variable: m}, m) for m in ("auto", "0", "1"))):
        assert build.toolkit.mode(env, variable) == mode
    with pytest.raises(SystemExit, match=f"{variable} must be auto, 1 or 0, got 'yes'"):
        build.decide({variable: "yes"})


def test_no_compiler(tmp_path: Path) -> None:
    env = without(PATH=str(tmp_path))
    assert build.missing(env) == "no C++ compiler (c++, g++ or clang++)"
    line = build.decide(env)
    assert "WITHOUT the native CPU engine: no C++ compiler" in line and "\n" not in line
    with pytest.raises(SystemExit, match="NATIVE=1, but the native module cannot be built: no C\\+\\+ compiler"):
        build.decide(env | {"PATCHCORE_FAST_NATIVE": "1"})


def test_named_compiler_that_is_not_there() -> None:
    assert "CXX=/nonexistent is not there" in build.decide(without(CXX="/nonexistent"))


def test_nothing_is_looked_for_where_nothing_is_wanted() -> None:
    assert "PATCHCORE_FAST_NATIVE=0" in build.decide(without(PATCHCORE_FAST_NATIVE="0"))


def fake_tools(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(("there", "reason"), [(["c++"], "no cmake"), (["clang++", "cmake"], "no ninja")])
def test_missing_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str], reason: str) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    assert build.missing(without(PATH=fake_tools(tmp_path, *there))).startswith(reason)


def test_missing_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = without(PATH=fake_tools(tmp_path, "g++", "cmake", "ninja"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pybind11" else find_spec(name))
    assert build.missing(env) == "no pybind11 (pip install pybind11)"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    assert "no headers of this Python" in build.missing(env)


def copy_of_the_sources(folder: Path) -> Path:
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("patchcore_fast", "csrc", "packaging"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_install_without_a_compiler(tmp_path: Path) -> None:
    source = copy_of_the_sources(tmp_path / "source")
    # What an earlier build with a compiler would have left; it must not be packed as this one's.
    stale = source / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "patchcore_fast"
    stale.mkdir(parents=True)
    module = f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    for folder in (stale, source / "patchcore_fast"):
        (folder / module).write_bytes(b"stale")
    target = tmp_path / "target"
    empty = tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, "--target", str(target), str(source)], env=without(PATH=str(empty)), **captured)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("WITHOUT the native CPU engine: no C++ compiler") == 1
    assert not list(target.rglob("_native*.so"))
    code = (
        # An editable install's finder would look into its own tree for the module that the target lacks.
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')];"
        "import torch, patchcore_fast; from patchcore_fast.kernels import k_center_greedy;"
        "from patchcore_fast.kernels.backends.native_library import native_refusal;"
        "print(patchcore_fast.__file__); print(native_refusal());"
        "print(k_center_greedy(torch.tensor([[0.0], [1.0], [5.0]]), 2, start=0).indices.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=without(PYTHONPATH=str(target)), cwd=empty, **captured)
    where, reason, picks = done.stdout.splitlines()
    assert Path(where).is_relative_to(target)
    assert "installed without a C++ compiler" in reason and picks == "[0, 2]"


def test_a_build_in_place_without_the_engine_takes_the_old_one_away(tmp_path: Path) -> None:
    source = copy_of_the_sources(tmp_path)
    module = source / "patchcore_fast" / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    module.write_bytes(b"stale")
    env = without(PATCHCORE_FAST_NATIVE="0")
    done = subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=source, env=env, **captured)
    assert done.returncode == 0 and "engine: PATCHCORE_FAST_NATIVE=0." in done.stdout, done.stdout
    assert not module.exists()


def wrapped_compiler(folder: Path, pattern: str, instead: str) -> str:
    """The compiler of this machine, only that on command lines of that pattern a line of shell runs instead."""
    path = folder / "compiler"
    real = build.find_compiler(os.environ)
    path.write_text(f'#!/bin/sh\ncase "$*" in {pattern}) {instead};; esac\nexec {real} "$@"\n')
    path.chmod(0o755)
    return str(path)


@needs_tools
def test_a_compiler_that_fails_fails_the_build(tmp_path: Path) -> None:
    source = copy_of_the_sources(tmp_path / "source")
    # It passes CMake's trials, and fails on every file: Ninja would wait for what runs beside a single one.
    compiler = wrapped_compiler(tmp_path, "*/csrc/*.cpp*", 'echo "our sources: no" >&2; exit 1')
    env = without(CXX=compiler)
    done = subprocess.run([sys.executable, "setup.py", "build_ext"], cwd=source, env=env, **captured)
    assert done.returncode != 0
    assert "our sources: no" in done.stdout and "the native module does not build" in done.stdout
    assert "WITHOUT the native" not in done.stdout and not list((source / "build").glob("lib*/**/_native*.so"))


def configure(folder: Path, env: dict[str, str]) -> dict[str, list[str]]:
    """Configure the core without optimisation; the compiler's words for each file of csrc/cpu."""
    cmake, ninja = (build.find_tool(name, env) for name in ("cmake", "ninja"))
    settings = [f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DPCF_PYTHON=OFF", "-DCMAKE_BUILD_TYPE=Debug"]
    line = [cmake, "-S", ROOT / "csrc", "-B", folder, "-G", "Ninja", *settings]
    done = subprocess.run(line, env=env | {"CXX": build.find_compiler(env)}, **captured)
    assert done.returncode == 0, done.stdout
    found = json.loads((folder / "compile_commands.json").read_text())
    return {Path(c["file"]).name: shlex.split(c["command"]) for c in found}


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A folder configured with the compiler of this machine, and the compiler's words for each file."""
    if reason := build.missing(os.environ):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("objects")
    return folder, configure(folder, dict(os.environ))


# What each instruction set's files, and no others, are compiled with.
MACHINE = {
    "avx2": {"-mavx2"},
    "avx512": {"-mavx512f"},
    "vnni": {"-mavx512f", "-mavx512vnni"},
    "amx": {"-mavx512f", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"},
}
TELLING = set().union(*MACHINE.values())


def test_flags(configured: tuple[Path, dict[str, list[str]]]) -> None:
    _, found = configured
    assert {"isa.cpp", "tile_portable.cpp"} <= set(found)
    for name, words in found.items():
        assert "-ffp-contract=off" in words and "-march=native" not in words, name
        machine = {w for w in words if w.startswith("-m")}
        isa = Path(name).stem.rpartition("_")[2]
        assert machine & TELLING == MACHINE.get(isa, set()), name
        assert isa in MACHINE or not machine, name


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 compiler")
@needs_tools
def test_compiler_that_lacks_an_instruction_set(tmp_path: Path) -> None:
    env = without(CXX=wrapped_compiler(tmp_path, "*-mamx-tile*", "exit 1"))
    found = configure(tmp_path / "objects", env)
    assert "tile_amx.cpp" not in found and {"tile_avx512.cpp", "tile_avx2.cpp"} <= set(found)
    for words in found.values():
        assert {"-DPCF_HAVE_AVX2=1", "-DPCF_HAVE_AVX512=1", "-DPCF_HAVE_AMX=0"} <= set(words)


def test_kernels_define_no_symbol_that_the_linker_could_share(configured: tuple[Path, dict[str, list[str]]]) -> None:
    # An inline function that two files define is kept once, and it may be the AVX-512 copy, run on a CPU without.
    # Unoptimised, so that the compiler leaves every such function in the object.
    folder, found = configured
    objects = [words[words.index("-o") + 1] for name, words in found.items() if name.startswith("tile_")]
    assert objects
    done = subprocess.run([build.find_tool("ninja", os.environ), "-C", folder, *objects], **captured)
    assert done.returncode == 0, done.stdout
    for path in objects:
        done = subprocess.run(["nm", "-C", "--defined-only", folder / path], check=True, capture_output=True, text=True)
        symbols = [line.split(maxsplit=2)[-2:] for line in done.stdout.splitlines()]
        assert [s for s in symbols if s[0] in "TDRB"], f"{path} defines nothing"
        assert [s for s in symbols if s[0] in "WVu"] == [], path
