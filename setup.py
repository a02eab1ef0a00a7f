"""Builds patchcore_fast._native (csrc/) with CMake and Ninja; the metadata is in pyproject.toml.

PATCHCORE_FAST_NATIVE=auto (the default) builds it where a compiler is; without one the package installs all the same
and runs on torch; a compiler that fails is an error. =1 makes a missing compiler an error too, =0 builds nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NATIVE = "patchcore_fast._native"


def native_mode(env: Mapping[str, str]) -> str:
    """PATCHCORE_FAST_NATIVE: "auto", "1" or "0"."""
    mode = env.get("PATCHCORE_FAST_NATIVE", "") or "auto"
    if mode not in ("auto", "0", "1"):
        raise SystemExit(f"PATCHCORE_FAST_NATIVE must be auto, 1 or 0, got {mode!r}")
    return mode


def find_tool(name: str, env: Mapping[str, str]) -> str | None:
    """A program in PATH, or beside this Python: a virtual environment need not be activated to be used."""
    beside = sysconfig.get_path("scripts")
    return shutil.which(name, path=os.pathsep.join([env.get("PATH", ""), beside]))


def find_compiler(env: Mapping[str, str]) -> str | None:
    """The C++ compiler's command line: what CXX says, or the first of c++, g++ and clang++ in PATH."""
    if named := env.get("CXX", "").strip():
        return named if shutil.which(shlex.split(named)[0], path=env.get("PATH", "")) else None
    found = (shutil.which(name, path=env.get("PATH", "")) for name in ("c++", "g++", "clang++"))
    return next((path for path in found if path), None)


def missing(env: Mapping[str, str]) -> str | None:
    """What is not here and would be needed to build, in words; None where everything is."""
    if find_compiler(env) is None:
        named = env.get("CXX", "").strip()
        return f"CXX={named} is not there" if named else "no C++ compiler (c++, g++ or clang++)"
    for tool in ("cmake", "ninja"):
        if find_tool(tool, env) is None:
            return f"no {tool} (pip install {tool})"
    if importlib.util.find_spec("pybind11") is None:
        return "no pybind11 (pip install pybind11)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return None if header.exists() else f"no headers of this Python ({header}; Debian: python3-dev)"


def decide(env: Mapping[str, str]) -> str | None:
    """None where the native module is to be built, else the line that says why not; SystemExit if =1 cannot be."""
    mode = native_mode(env)
    reason = "PATCHCORE_FAST_NATIVE=0" if mode == "0" else missing(env)
    if reason is None:
        return None
    if mode == "1":
        raise SystemExit(f"patchcore_fast: PATCHCORE_FAST_NATIVE=1, but the native module cannot be built: {reason}")
    return f"patchcore_fast: installing WITHOUT the native CPU engine: {reason}. Everything runs on torch, only slower."


def build_folder(env: Mapping[str, str]) -> Path:
    """Where objects stay from build to build: one folder for each Python, compiler and set of flags."""
    what = [find_compiler(env), *(env.get(name, "") for name in ("CXXFLAGS", "CPPFLAGS", "LDFLAGS", "ARCHFLAGS"))]
    digest = hashlib.sha256("\0".join(map(str, what)).encode()).hexdigest()[:8]
    return ROOT / "build" / f"native-{sys.implementation.cache_tag}-{sysconfig.get_platform()}-{digest}"


def build_native(env: Mapping[str, str]) -> Path:
    """Run CMake and Ninja; the file of the module. SystemExit with what to do where they fail."""
    import pybind11

    folder = build_folder(env)
    cmake, ninja = find_tool("cmake", env), find_tool("ninja", env)
    # Given at every build: in an isolated one, all three lie in another temporary folder each time.
    paths = {
        "CMAKE_MAKE_PROGRAM": ninja,
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    configure = [cmake, "-S", str(ROOT / "csrc"), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    try:
        child = dict(env) | {"CXX": find_compiler(env)}
        subprocess.run([*configure, *(f"-D{name}={value}" for name, value in paths.items())], env=child, check=True)
        subprocess.run([cmake, "--build", str(folder), "--target", "_native"], env=child, check=True)
    except subprocess.CalledProcessError as e:
        raise SystemExit(
            "patchcore_fast: the native module does not build; the compiler's messages are above (with pip: -v). "
            "PATCHCORE_FAST_NATIVE=0 installs without it, to run on torch."
        ) from e
    return folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"


class BuildNative(build_ext):
    """Builds the extension with CMake, or leaves it out and says so."""

    def run(self) -> None:
        if line := decide(os.environ):
            # An earlier build's module must not be packed, nor stay in a tree that says it has none.
            file = self.get_ext_filename(NATIVE)
            Path(self.build_lib, file).unlink(missing_ok=True)
            if self.inplace:
                (ROOT / file).unlink(missing_ok=True)
            self.extensions = []
            print(line, flush=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a process that has the old one mapped keeps it
        shutil.copy2(build_native(os.environ), target)


if __name__ == "__main__":
    setup(ext_modules=[Extension(NATIVE, sources=[])], cmdclass={"build_ext": BuildNative})
