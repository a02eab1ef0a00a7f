"""What is in the sdist, and what the configuration of the release says. That it builds, the wheel's fixture shows."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .conftest import package_files
from .test_setup import ROOT, captured, without


def test_it_has_what_builds_and_no_more(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {m.name.partition("/")[2]: m for m in archive.getmembers() if not m.isdir()}
    assert all(m.isreg() for m in members.values()), "a link would not survive a zip or another system"
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    alone = {"setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "packaging/toolkit.py",
             "packaging/THIRD-PARTY.txt"}  # fmt: skip
    generated = {name for name in members if re.match(r"PKG-INFO$|setup\.cfg$|patchcore_fast\.egg-info/", name)}
    assert set(members) - generated == package_files() | sources | alone


def test_wheels_that_are_released() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    release = project["tool"]["cibuildwheel"]
    versions = {"cp310", "cp311", "cp312", "cp313"}
    assert {name.partition("-")[0] for name in release["build"]} == versions
    assert release["linux"]["manylinux-x86_64-image"] == "manylinux_2_28"
    passed = set(release["linux"]["environment-pass"])
    assert passed == {"PATCHCORE_FAST_CUDA", "PATCHCORE_FAST_CUDA_ARCHS", "PATCHCORE_FAST_LOCAL_VERSION"}
    assert not any("torch" in line for line in project["build-system"]["requires"])
    for command in (release["test-command"], release["linux"]["before-all"]):
        (path,) = re.findall(r"\{project\}/(\S+)", command)
        assert (ROOT / path).is_file()


def test_cibuildwheel_reads_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("cibuildwheel") is None:
        pytest.skip("no cibuildwheel (pip install cibuildwheel)")
    line = [sys.executable, "-m", "cibuildwheel", "--platform", "linux", "--print-build-identifiers", str(ROOT)]
    done = subprocess.run(line, cwd=tmp_path, **captured)
    assert done.returncode == 0, done.stdout
    assert done.stdout.split() == [f"cp3{minor}-manylinux_x86_64" for minor in (10, 11, 12, 13)]


@pytest.mark.parametrize("script", ["wheels.sh", "try_wheel.sh", "install_cuda.sh", "zig-c++"])
def test_scripts_are_shell(script: str) -> None:
    path = ROOT / "packaging" / script
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", path], **captured).stdout == ""


@pytest.mark.parametrize("script", ["wheels.sh", "try_wheel.sh"])
def test_scripts_explain_themselves(script: str) -> None:
    done = subprocess.run([ROOT / "packaging" / script], env=without(), **captured)
    assert done.returncode == 2 and f"packaging/{script} " in done.stdout


def test_the_release_without_cuda_installs_no_toolkit() -> None:
    line = ["bash", ROOT / "packaging" / "install_cuda.sh"]
    done = subprocess.run(
        line, env=without(PATH="/nonexistent", PATCHCORE_FAST_CUDA="0"), **captured, executable="/bin/bash"
    )
    assert done.returncode == 0 and done.stdout == ""
