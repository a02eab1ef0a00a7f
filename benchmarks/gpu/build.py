"""Install this tree with the CUDA kernels, for the card that is here: the first part of run.py.

    python -m benchmarks.gpu.build           # builds nothing where a module with kernels for this card is installed
    python -m benchmarks.gpu.build --force

Ways, each taken where the one before failed: pip's editable install; setup.py's own build, its module put into
patchcore_fast/, where it is found from the checkout (an environment whose setuptools is too old for pyproject.toml);
the same two without CUDA, for what does not need it: the status is then 1. Nothing is downloaded. What the build will
want and is not here is said first.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from benchmarks import ROOT

# Prints the compute capability of the card, and whether kernels for it are there: a process of its own, as the module
# that it loads may be about to be replaced.
STATE = """
import torch
print("{}{}".format(*torch.cuda.get_device_capability()))
from patchcore_fast.kernels.backends.cuda_backend import CUDA
print(CUDA.refuse(torch.device("cuda")) or "ready")
"""
# setup.py's build without setup(): that would read pyproject.toml.
DIRECT = """
import os, shutil, sys
sys.path.insert(0, os.getcwd())
import setup
if reason := setup.decide(os.environ):
    sys.exit(reason)
cuda = setup.toolkit.decide_cuda(os.environ, setup.find_compiler(os.environ))
print(setup.cuda_line(cuda), flush=True)
file = setup.build_native(os.environ, cuda)
new = os.path.join("patchcore_fast", "new-" + file.name)
shutil.copy2(file, new)
os.replace(new, os.path.join("patchcore_fast", file.name))
"""
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
Way = Callable[[Mapping[str, str]], int]


def state() -> tuple[str, str]:
    """The card's architecture, as nvcc counts, and "ready" or why its kernels are not there."""
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.split("\n")
    if not lines[0].isdigit():
        raise SystemExit(f"no CUDA device: {(done.stderr.strip().splitlines() or ['torch says nothing'])[-1]}")
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return lines[0], lines[1] if len(lines) > 2 else last


def lacking(env: Mapping[str, str]) -> list[str]:
    """What the build will want and is not here, in words."""
    path = os.pathsep.join([env.get("PATH", ""), sysconfig.get_path("scripts")])
    found = []
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        found.append(f"{header} (headers of this Python)")
    if not env.get("CXX") and not any(shutil.which(name, path=path) for name in ("c++", "g++", "clang++")):
        found.append("a C++ compiler (g++)")
    found += [name for name in ("cmake", "ninja") if shutil.which(name, path=path) is None]
    found += [name for name in ("pybind11", "setuptools") if importlib.util.find_spec(name) is None]
    nvcc = _toolkit().find_nvcc(env)
    if nvcc is None:
        return [*found, "nvcc"]
    home = Path(nvcc).resolve().parents[1]
    folders = ("lib64", "lib", "targets/*/lib", "../lib/*")
    if not any(file for folder in folders for file in home.glob(f"{folder}/libcudart_static.a")):
        found.append(f"libcudart_static.a (looked for under {home})")
    return found


def _toolkit() -> ModuleType:
    """packaging/toolkit.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("patchcore_fast_toolkit", ROOT / "packaging" / "toolkit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_pip(more: Mapping[str, str]) -> int:
    """Status of pip's editable install."""
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", "."]
    return _run(command, more)


def directly(more: Mapping[str, str]) -> int:
    """Status of setup.py's build into patchcore_fast/."""
    return _run([sys.executable, "-c", DIRECT], more)


def _run(command: list[str], more: Mapping[str, str]) -> int:
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **OFFLINE, **more}).returncode


def install(more: Mapping[str, str]) -> str:
    """How it was installed; empty where no way led there."""
    ways: dict[str, Way] = {"pip": by_pip, "setup.py's build": directly}
    for name, way in ways.items():
        print(f"-- {name}, {' '.join(f'{k}={v}' for k, v in more.items())}", flush=True)
        if way(more) == 0:
            return name
    return ""


def main(argv: list[str] | None = None) -> None:
    """See above."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--force", action="store_true", help="build in any case")
    args = p.parse_args(argv)
    arch, found = state()
    if found == "ready" and not args.force:
        print(f"CUDA kernels for compute capability {arch[:-1]}.{arch[-1]} are there")
        return
    if missing := lacking(os.environ):
        print(f"MISSING here: {'; '.join(missing)}", flush=True)
    print(f"building for {arch}: {found}", flush=True)
    if not install({"PATCHCORE_FAST_NATIVE": "1", "PATCHCORE_FAST_CUDA": "1", "PATCHCORE_FAST_CUDA_ARCHS": arch}):
        how = install({"PATCHCORE_FAST_CUDA": "0"})
        sys.exit(f"the CUDA build failed; without it: {f'installed by {how}' if how else 'failed too'}")
    arch, found = state()
    sys.exit(None if found == "ready" else f"built, and yet: {found}")


if __name__ == "__main__":
    main()
