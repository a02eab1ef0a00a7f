"""The module in which the CUDA kernels run on the CPU (csrc/cuda/emulated.h), built when it is first asked for.

PATCHCORE_FAST_CUDA_EMULATED=path takes one that is there already. What is built is kept in build/emulated under a name
that holds a hash of the sources, so it is built again when they change, and only then.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
VARIABLE = "PATCHCORE_FAST_CUDA_EMULATED"
_TARGET = "_native_emulated"


def _tool(name: str) -> str | None:
    """A program in PATH or beside this Python."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")]))


def missing() -> str | None:
    """What is needed to build it and is not here, in words; None where it is there or can be built."""
    if os.environ.get(VARIABLE):
        return None
    if not (SOURCES / "cuda" / "gpu.h").exists():
        return "the kernels' sources are not here"
    for name in ("cmake", "ninja"):
        if _tool(name) is None:
            return f"no {name}"
    if not os.environ.get("CXX") and not any(map(_tool, ("c++", "g++", "clang++"))):
        return "no C++ compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "no headers of this Python"
    return None if importlib.util.find_spec("pybind11") else "no pybind11"


def _processor() -> str:
    """What this CPU can do: the module uses all of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def digest() -> str:
    """A hash of all that the module is made from and for."""
    settings = (sys.version, os.environ.get("CXX"), os.environ.get("CXXFLAGS"), _processor())
    out = hashlib.sha256(repr(settings).encode())
    files = [*SOURCES.glob("*"), *SOURCES.glob("cuda/**/*")]
    for file in sorted(f for f in files if f.is_file()):
        out.update(f"{file.relative_to(SOURCES)}\0".encode() + file.read_bytes())
    return out.hexdigest()[:16]


@functools.cache
def build() -> Path:
    """The module's file.

    Raises
    ------
    RuntimeError : it cannot be built; the message ends with what the compiler said.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given)
    if reason := missing():
        raise RuntimeError(f"the emulated CUDA kernels cannot be built: {reason}")
    folder = ROOT / "build" / f"emulated-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # several test processes may begin at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        module = folder / f"{_TARGET}-{digest()}" / f"{_TARGET}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if not module.exists():
            for old in folder.glob(f"{_TARGET}-*"):
                shutil.rmtree(old)
            _compile(folder / "objects")
            module.parent.mkdir()
            shutil.move(folder / "objects" / module.name, module)
    return module


def _compile(objects: Path) -> None:
    import pybind11

    cmake = str(_tool("cmake"))
    configure = [cmake, "-S", SOURCES, "-B", objects, "-G", "Ninja", "-DPCF_PYTHON=OFF", "-DPCF_EMULATED=ON"]
    paths = {
        "CMAKE_MAKE_PROGRAM": _tool("ninja"),
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    for command in (
        [*configure, *(f"-D{name}={value}" for name, value in paths.items())],
        [cmake, "--build", objects, "--target", _TARGET],
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"the emulated CUDA kernels do not build:\n{done.stdout[-8000:]}")
