"""The files that are handed out: an sdist made of this tree, and a wheel made of that sdist, once a session.

PATCHCORE_FAST_WHEEL=FILE checks that wheel instead, with or without CUDA (packaging/wheels.sh); otherwise the wheel is
built here without CUDA, which takes a minute. PATCHCORE_FAST_WHEEL_CUDA=1 builds it with CUDA, for all cards: minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .test_setup import ROOT, build, captured, copy_of_the_sources, without

NAMED = "PATCHCORE_FAST_WHEEL"


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the hook that `python -m build --sdist` calls, of a copy: it writes into the tree that it packs."""
    folder = tmp_path_factory.mktemp("sdist")
    source = copy_of_the_sources(folder / "source")
    for name in ("tests", "benchmarks", "docs"):  # what must not get in
        (source / name).mkdir()
        (source / name / "test_this.py").write_text("")
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    line = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(line, cwd=source, env=without(), **captured)
    assert done.returncode == 0, done.stdout
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is checked."""
    if named := os.environ.get(NAMED):
        return Path(named).resolve()
    if reason := build.missing(os.environ):
        pytest.skip(f"no wheel can be built here: {reason}; {NAMED} can name one")
    folder = tmp_path_factory.mktemp("wheel")
    cuda = {"PATCHCORE_FAST_CUDA": "0"}
    if os.environ.get("PATCHCORE_FAST_WHEEL_CUDA") == "1":
        cuda = {"PATCHCORE_FAST_CUDA": "1", "PATCHCORE_FAST_CUDA_ARCHS": "all", "PATCHCORE_FAST_LOCAL_VERSION": "cuda"}
    pip = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-index"]
    env = without(PATCHCORE_FAST_NATIVE="1", **cuda)
    done = subprocess.run([*pip, "--wheel-dir", str(folder), str(sdist)], cwd=folder, env=env, **captured)
    assert done.returncode == 0, done.stdout
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def names(wheel: Path) -> list[str]:
    """The wheel's files; auditwheel packs folders, too."""
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return [name for name in archive.namelist() if not name.endswith("/")]


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed by pip, alone, into a folder; skips where it was made for another Python."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    done = subprocess.run(pip, **captured)
    if "is not a supported wheel on this platform" in done.stdout:
        pytest.skip(f"{wheel.name} is for another Python or system")
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="session")
def module(wheel: Path, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's native module, as a file."""
    (member,) = [name for name in names if name.endswith(".so")]
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(member, tmp_path_factory.mktemp("module")))


def package_files() -> set[str]:
    """What of the tree must be in every wheel, as patchcore_fast/...: all Python, and the data beside it."""
    found = set()
    for folder, _, files in os.walk(ROOT / "patchcore_fast", followlinks=True):
        for name in files:
            if name.endswith((".py", ".json", ".html", ".css", ".js")) or name == "py.typed":
                found.add(Path(folder, name).relative_to(ROOT).as_posix())
    return found
