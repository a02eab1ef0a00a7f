"""What is in a wheel, and what its native module asks of a machine."""

from __future__ import annotations

import email
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import package_files
from .test_setup import captured, without

GLIBC = (2, 28)  # of the oldest systems that the released wheels are for
MOST_BYTES = 8_000_000
# Of glibc itself, on every Linux of its kind; whatever else a module needs would have to be on the machine.
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2",
             "ld-linux-aarch64.so.1"}  # fmt: skip
pytestmark = pytest.mark.thorough  # builds a wheel, with the native engine
needs_binutils = pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump (binutils)")


def said(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def metadata(wheel: Path, name: str) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [n for n in archive.namelist() if re.fullmatch(rf"patchcore_fast-[^/]*\.dist-info/{name}", n)]
        return email.message_from_bytes(archive.read(member))


def test_it_has_the_package_and_nothing_else(names: list[str]) -> None:
    ours = {name for name in names if not re.match(r"patchcore_fast-[^/]+\.dist-info/", name)}
    (module,) = [name for name in ours if name.endswith(".so")]
    assert re.fullmatch(r"patchcore_fast/_native\.[\w.-]+\.so", module)
    assert ours - {module} == package_files()
    assert {"patchcore_fast/kernels/kcenter/__init__.py", "patchcore_fast/kernels/backends/measured.json"} <= ours


def test_licences_are_in_it(wheel: Path, names: list[str]) -> None:
    licences = {name.partition("/licenses/")[2] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "packaging/THIRD-PARTY.txt"}
    assert metadata(wheel, "METADATA")["License-Expression"] == "Apache-2.0"


def test_it_takes_any_torch_from_2_6_on(wheel: Path) -> None:
    required = metadata(wheel, "METADATA").get_all("Requires-Dist") or []
    always = {line.replace(" ", "") for line in required if "extra ==" not in line}
    assert always == {"torch>=2.6", "numpy>=1.24", 'tomli>=1.1;python_version<"3.11"'}


def test_its_name_says_what_it_runs_on(wheel: Path) -> None:
    from patchcore_fast import __version__

    tags = metadata(wheel, "WHEEL").get_all("Tag") or []
    assert tags and all(re.fullmatch(r"cp3\d+-cp3\d+-(many)?linux\w*_x86_64|cp3\d+-cp3\d+-linux_\w+", t) for t in tags)
    assert metadata(wheel, "WHEEL")["Root-Is-Purelib"] == "false"
    version, *label = metadata(wheel, "METADATA")["Version"].split("+")
    assert version == __version__ and wheel.name.startswith("patchcore_fast-" + "+".join([version, *label]) + "-cp3")


def test_it_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES, f"{wheel.name} has {wheel.stat().st_size / 1e6:.2f} MB"


@needs_binutils
def test_module_shows_one_symbol(module: Path) -> None:
    lines = said("nm", "-D", "--defined-only", module).splitlines()
    assert [line.split()[-1] for line in lines] == ["PyInit__native"]


@needs_binutils
def test_module_needs_glibc_alone(module: Path) -> None:
    dynamic = said("objdump", "-p", module)
    needed = set(re.findall(r"NEEDED\s+(\S+)", dynamic))
    assert needed and needed <= LIBRARIES
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


def newest_glibc(module: Path) -> tuple[int, int]:
    """The oldest glibc that the module can be loaded with."""
    found = re.findall(r"GLIBC_(\d+)\.(\d+)", said("objdump", "-T", module))
    return max((int(major), int(minor)) for major, minor in found)


def promised_glibc(wheel: Path) -> tuple[int, int] | None:
    """The glibc in the wheel's tags; None for a wheel that promises nothing but the machine it was built on."""
    tags = " ".join(metadata(wheel, "WHEEL").get_all("Tag") or [])
    found = re.findall(r"manylinux_(\d+)_(\d+)_", tags)
    return max((int(major), int(minor)) for major, minor in found) if found else None


@needs_binutils
def test_module_needs_no_newer_glibc_than_the_wheel_promises(wheel: Path, module: Path) -> None:
    promised, newest = promised_glibc(wheel), newest_glibc(module)
    if promised is None:
        # Built by setuptools alone. On a system newer than 2.28 it needs that system's glibc, and its tag says so.
        assert "-linux_" in wheel.name
        assert newest <= tuple(map(int, sys_glibc()))
    else:
        assert newest <= promised <= GLIBC, f"{wheel.name} needs glibc {newest}"


def sys_glibc() -> tuple[str, str]:
    import platform

    name, version = platform.libc_ver()
    assert name == "glibc"
    major, minor, *_ = version.split(".")
    return major, minor


def test_auditwheel_agrees(wheel: Path) -> None:
    if subprocess.run([sys.executable, "-c", "import auditwheel"], **captured).returncode == 0:
        auditwheel = [sys.executable, "-m", "auditwheel"]
    elif path := shutil.which("auditwheel"):
        auditwheel = [path]
    else:
        pytest.skip("no auditwheel (pip install auditwheel)")
    report = " ".join(said(*auditwheel, "show", wheel).split())
    assert "is consistent with the following platform tag" in report
    found = re.search(r'platform tag: "(?:manylinux_(\d+)_(\d+)|linux)_', report)
    assert found is not None, report
    promised = promised_glibc(wheel)
    if promised is not None:
        assert found[1] is not None and (int(found[1]), int(found[2])) <= promised, report
    assert "libraries are required by the wheel" not in report, report


RUN = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]  # not the tree's package
import json, torch, patchcore_fast
from patchcore_fast import _native
from patchcore_fast.cli import main
from patchcore_fast.kernels import k_center_greedy, knn
x = torch.tensor([[0.0], [1.0], [5.0], [2.0]])
print(json.dumps({
    "file": patchcore_fast.__file__,
    "picks": k_center_greedy(x, 3, start=0, backend="native").indices.tolist(),
    "neighbours": knn(x[:1], x, 2, backend="native")[1].tolist(),
    "cuda": _native.cuda.info() if hasattr(_native, "cuda") else _native.cuda_refusal(),
}))
main(["doctor", "--json"])
"""


def test_it_works_where_it_is_installed(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    env = without(PYTHONPATH=str(unpacked))
    done = subprocess.run([sys.executable, "-c", RUN], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, rest = done.stdout.split("\n", 1)
    told, found = json.loads(first), json.loads(rest)
    assert Path(told["file"]).is_relative_to(unpacked)
    assert told["picks"] == [0, 2, 3] and told["neighbours"] == [[0, 1]]
    assert found["native"]["loaded"] and found["package"]["version"] == metadata(wheel, "METADATA")["Version"]
    label = found["package"]["version"].partition("+")[2]
    assert found["cuda"]["built"] == label.startswith("cu") == isinstance(told["cuda"], dict)
    if isinstance(told["cuda"], str):
        assert told["cuda"] == found["cuda"]["reason"] == "built without CUDA: PATCHCORE_FAST_CUDA=0"
        return
    # A released wheel is for all cards, carries the runtime that its name says, and is a module of the true kernels.
    assert told["cuda"]["archs"] == [75, 80, 86, 89, 90, 100, 120] and told["cuda"]["ptx"] == 120
    assert told["cuda"]["emulated"] is False
    if label != "cuda":
        assert label == "cu" + found["cuda"]["runtime"].replace(".", "")
