"""Builds patchcore_fast._native (csrc/) with CMake and Ninja; the metadata is in pyproject.toml, except the version.

PATCHCORE_FAST_NATIVE=auto (the default) builds it where a compiler is; without one the package installs all the same
and runs on torch; a compiler that fails is an error. =1 makes a missing compiler an error too, =0 builds nothing.

PATCHCORE_FAST_CUDA=auto (the default) puts the CUDA kernels into the module where there are cards to build for, and an
nvcc of 12.8 or later that compiles a trial; an nvcc that then fails is an error. =1 makes a missing nvcc an error too,
and builds for all cards where there are none; =0 leaves them out. PATCHCORE_FAST_CUDA_ARCHS="86;90" (or all) names the
cards; by default those in this machine.

PATCHCORE_FAST_LOCAL_VERSION=cu128 makes the version 0.1.0+cu128: packaging/wheels.sh names wheels with it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NATIVE = "patchcore_fast._native"
NATIVE_MODE = "PATCHCORE_FAST_NATIVE"


def _beside(path: str) -> ModuleType:
    """A file of this tree as a module: neither an isolated build nor `python setup.py` elsewhere has it in its path."""
    spec = importlib.util.spec_from_file_location(f"patchcore_fast_{Path(path).stem}", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toolkit = _beside("packaging/toolkit.py")


def package_version(env: Mapping[str, str]) -> str:
    """patchcore_fast.__version__, with what PATCHCORE_FAST_LOCAL_VERSION adds."""
    source = (ROOT / "patchcore_fast" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    assert found is not None, "patchcore_fast/__init__.py has no __version__"
    label = env.get("PATCHCORE_FAST_LOCAL_VERSION", "")
    if label and not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", label):
        raise SystemExit(f"PATCHCORE_FAST_LOCAL_VERSION must be letters and digits as in cu128, got {label!r}")
    return f"{found[1]}+{label}" if label else found[1]


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
    modes = {name: toolkit.mode(env, name) for name in (NATIVE_MODE, toolkit.CUDA)}
    reason = f"{NATIVE_MODE}=0" if modes[NATIVE_MODE] == "0" else missing(env)
    if reason is None:
        return None
    for name, asked in modes.items():
        if asked == "1":  # the CUDA kernels are a part of the native module
            raise SystemExit(f"patchcore_fast: {name}=1, but the native module cannot be built: {reason}")
    return f"patchcore_fast: installing WITHOUT the native CPU engine: {reason}. Everything runs on torch, only slower."


def cuda_line(cuda: tuple | str) -> str:
    """What the installation's log says of the CUDA kernels."""
    if not isinstance(cuda, str):
        return cuda.line()
    return (
        f"patchcore_fast: WITHOUT CUDA kernels: {cuda}. CUDA tensors go to Triton or torch; CPU tensors lose nothing."
    )


def build_folder(env: Mapping[str, str], cuda: tuple | str) -> Path:
    """Where objects stay from build to build: one folder for each Python, compiler, nvcc and set of flags."""
    flags = ("CXXFLAGS", "CPPFLAGS", "LDFLAGS", "ARCHFLAGS", "CUDAFLAGS")
    what = [find_compiler(env), *(env.get(name, "") for name in flags), *(() if isinstance(cuda, str) else cuda[:4])]
    digest = hashlib.sha256("\0".join(map(str, what)).encode()).hexdigest()[:8]
    return ROOT / "build" / f"native-{sys.implementation.cache_tag}-{sysconfig.get_platform()}-{digest}"


def cuda_settings(cuda: tuple | str) -> dict[str, str]:
    """What CMake is told of the CUDA kernels; `cuda` is a toolkit.Toolkit, or in words why they are left out."""
    if isinstance(cuda, str):
        # It becomes a string literal in a command line: nothing that CMake, the shell or C++ would read goes in.
        return {"PCF_CUDA": "OFF", "PCF_CUDA_REFUSAL": re.sub(r"[^\w .,:()/=+-]+", "_", cuda)}
    nvcc, _, archs, host, _ = cuda
    settings = {"PCF_CUDA": "ON", "PCF_CUDA_ARCHS": ";".join(map(str, archs)), "CMAKE_CUDA_COMPILER": nvcc}
    return settings | ({"CMAKE_CUDA_HOST_COMPILER": host} if host else {})


def build_native(env: Mapping[str, str], cuda: tuple | str) -> Path:
    """Run CMake and Ninja; the file of the module. SystemExit with what to do where they fail."""
    import pybind11

    folder = build_folder(env, cuda)
    cmake, ninja = find_tool("cmake", env), find_tool("ninja", env)
    # Given at every build: in an isolated one, all three lie in another temporary folder each time.
    settings = {
        "CMAKE_MAKE_PROGRAM": ninja,
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        **cuda_settings(cuda),
    }
    configure = [cmake, "-S", str(ROOT / "csrc"), "-B", str(folder), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    try:
        child = dict(env) | {"CXX": find_compiler(env)}
        subprocess.run([*configure, *(f"-D{name}={value}" for name, value in settings.items())], env=child, check=True)
        subprocess.run([cmake, "--build", str(folder), "--target", "_native"], env=child, check=True)
    except subprocess.CalledProcessError as e:
        less = "" if isinstance(cuda, str) else f"{toolkit.CUDA}=0 builds it without CUDA kernels, "
        raise SystemExit(
            "patchcore_fast: the native module does not build; the compiler's messages are above (with pip: -v). "
            f"{less}PATCHCORE_FAST_NATIVE=0 installs without it, to run on torch."
        ) from e
    return folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"


class BuildNative(build_ext):
    """Builds the extension with CMake, or leaves it out and says so."""

    cuda: tuple | str = "not looked for"

    def run(self) -> None:
        if line := decide(os.environ):
            # An earlier build's module must not be packed, nor stay in a tree that says it has none.
            file = self.get_ext_filename(NATIVE)
            Path(self.build_lib, file).unlink(missing_ok=True)
            if self.inplace:
                (ROOT / file).unlink(missing_ok=True)
            self.extensions = []
        else:
            self.cuda = toolkit.decide_cuda(os.environ, find_compiler(os.environ))
            line = cuda_line(self.cuda)
        print(line, flush=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a process that has the old one mapped keeps it
        shutil.copy2(build_native(os.environ, self.cuda), target)


if __name__ == "__main__":
    setup(
        version=package_version(os.environ),
        ext_modules=[Extension(NATIVE, sources=[])],
        cmdclass={"build_ext": BuildNative},
    )
