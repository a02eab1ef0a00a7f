"""Whether the CUDA kernels are built, with which nvcc and for which cards: decided from what the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .test_setup import build, captured, copy_of_the_sources, needs_tools, without, wrapped_compiler

tools = build.toolkit
KNOWN = "75 80 86 87 88 89 90 100 103 110 120 121"  # nvcc 13.0's


def program(folder: Path, name: str, script: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def fake_nvcc(folder: Path, release: str = "13.0", known: str = KNOWN, trial: str = "exit 0") -> dict[str, str]:
    """An environment that asks for all cards, and whose nvcc prints as nvcc does and compiles by `trial`."""
    archs = "\\n".join(f"compute_{arch}" for arch in known.split())
    version = f"echo 'Cuda compilation tools, release {release}, V{release}.88'; exit 0"
    script = (
        f'echo "$@" >> {folder}/calls\ncase "$1" in\n--version) {version};;\n--list-gpu-arch) printf "{archs}\\n";;\n'
    )
    program(folder, "nvcc", f"{script}*) {trial};;\nesac")
    return {"PATH": f"{folder}:/usr/bin:/bin", "CUDACXX": str(folder / "nvcc"), "PATCHCORE_FAST_CUDA_ARCHS": "all"}


def with_cards(env: dict[str, str], folder: Path, script: str) -> dict[str, str]:
    program(folder, "nvidia-smi", script)
    return env | {"PATH": f"{folder}:{env['PATH']}"}


TEXTS = [
    ("86;90", (86, 90)),
    ("90, 86;86", (86, 90)),
    ("8.6 12.0", (86, 120)),
    (" 103; ", (103,)),
    ("", None),
    ("  ", None),
]


@pytest.mark.parametrize(("text", "archs"), [*TEXTS, ("all", (75, 80, 86, 89, 90, 100, 120))])
def test_archs(text: str, archs: tuple[int, ...] | None) -> None:
    assert tools.asked_archs({"PATCHCORE_FAST_CUDA_ARCHS": text}) == archs


@pytest.mark.parametrize("text", ["86;ninety", "8.6+PTX", "sm_86", "86a", "8", "1.2.3", "86;;-90"])
def test_archs_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises(
        SystemExit, match='PATCHCORE_FAST_CUDA_ARCHS must be compute capabilities as in "86;90", or all'
    ):
        tools.asked_archs({"PATCHCORE_FAST_CUDA_ARCHS": text})


@pytest.mark.parametrize("text", ["70", "86;7.0", "61"])
def test_archs_before_turing_are_an_error(text: str) -> None:
    with pytest.raises(SystemExit, match=r"need compute capability 7\.5"):
        tools.asked_archs({"PATCHCORE_FAST_CUDA_ARCHS": text})


def test_no_nvcc(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "CUDACXX": "/nonexistent/nvcc"}
    reason = tools.decide_cuda(env, None)
    assert reason == "CUDACXX=/nonexistent/nvcc is not there"
    line = build.cuda_line(reason)
    assert "WITHOUT CUDA kernels: CUDACXX=/nonexistent/nvcc is not there. CUDA tensors go to Triton" in line
    assert "\n" not in line
    wanted = "PATCHCORE_FAST_CUDA=1, but CUDA kernels cannot be built: .* Install the CUDA toolkit \\(12.8 to 13.x\\)"
    with pytest.raises(SystemExit, match=wanted):
        tools.decide_cuda(env | {"PATCHCORE_FAST_CUDA": "1"}, None)


def test_nvcc_is_looked_for_where_cuda_home_is(tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "nvcc", "exit 0")
    assert tools.find_nvcc({"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)}) == path
    assert tools.find_nvcc({"PATH": str(tmp_path / "bin")}) == path
    assert tools.find_nvcc({"PATH": str(tmp_path), "CUDA_PATH": str(tmp_path)}) == path


@pytest.mark.parametrize(("release", "good"), [("11.8", False), ("12.6", False), ("12.8", True), ("13.2", True)])
def test_version_of_nvcc(tmp_path: Path, release: str, good: bool) -> None:
    found = tools.decide_cuda(fake_nvcc(tmp_path, release), None)
    if good:
        assert found.version == tuple(map(int, release.split(".")))
    else:
        assert found == f"{tmp_path}/nvcc is of CUDA {release}, 12.8 or later is wanted"


def test_nvcc_that_does_not_run(tmp_path: Path) -> None:
    env = fake_nvcc(tmp_path) | {"CUDACXX": program(tmp_path, "nvcc", "echo broken; exit 3")}
    assert tools.decide_cuda(env, None) == f"{tmp_path}/nvcc --version does not work: broken"


def test_nvcc_that_cannot_compile_is_left_alone_with_its_words(tmp_path: Path) -> None:
    trial = "echo 'In file included'; echo 'host_config.h:1: #error -- unsupported GNU version!'; echo end; exit 1"
    env = fake_nvcc(tmp_path, trial=trial)
    reason = tools.decide_cuda(env, None)
    assert reason.endswith("nvcc does not compile a trial: host_config.h:1: #error -- unsupported GNU version!")
    with pytest.raises(SystemExit, match=r"cannot be built: .*unsupported GNU version!"):
        tools.decide_cuda(env | {"PATCHCORE_FAST_CUDA": "1"}, None)


def test_zero_looks_for_nothing(tmp_path: Path) -> None:
    assert tools.decide_cuda(fake_nvcc(tmp_path) | {"PATCHCORE_FAST_CUDA": "0"}, None) == "PATCHCORE_FAST_CUDA=0"
    assert not (tmp_path / "calls").exists()


def test_trial_is_for_the_cards_wanted_and_with_the_compiler_of_the_rest(tmp_path: Path) -> None:
    env = fake_nvcc(tmp_path) | {"PATCHCORE_FAST_CUDA_ARCHS": "90;86"}
    found = tools.decide_cuda(env, "/usr/bin/g++")
    assert found.archs == (86, 90) and found.host == "/usr/bin/g++"
    trial = (tmp_path / "calls").read_text().splitlines()[-1]
    for word in ("arch=compute_86,code=sm_86", "arch=compute_90,code=sm_90", "-ccbin /usr/bin/g++", "-cudart=static"):
        assert word in trial
    assert tools.decide_cuda(env | {"CUDAHOSTCXX": "/opt/g++"}, "/usr/bin/g++").host == "/opt/g++"
    assert tools.decide_cuda(env, "ccache g++").host is None  # nvcc takes one word: it finds its own
    assert found.line() == (
        "patchcore_fast: with CUDA kernels: nvcc 13.0, for 86, 90 and PTX of 90 (PATCHCORE_FAST_CUDA_ARCHS)"
    )


def test_archs_that_nvcc_does_not_know_are_an_error_even_in_auto(tmp_path: Path) -> None:
    env = fake_nvcc(tmp_path, "12.8", "75 80 86 89 90 100 101 120") | {"PATCHCORE_FAST_CUDA_ARCHS": "86;121"}
    with pytest.raises(SystemExit, match=r"=86;121: nvcc 12.8 does not know 121; it knows 75, 80, .*, 120$"):
        tools.decide_cuda(env, None)


@pytest.mark.parametrize(
    ("said", "archs"),
    [
        ("printf '8.6\\n8.6\\n'", (86,)),
        ("printf '12.0\\n7.5\\n'", (75, 120)),
        ("printf '7.0\\n8.9\\n'", (89,)),  # the one before Turing goes without
        ("printf '13.1\\n'", (121,)),  # newer than nvcc: its newest, whose PTX the driver compiles
        ("printf '7.0\\n'", "no GPU of compute capability 7.5 or later here"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "no GPU here"),
        ("printf '[N/A]\\n'", "no GPU here"),
        (None, "no GPU here"),
    ],
)
def test_default_is_the_cards_of_the_machine(tmp_path: Path, said: str | None, archs: tuple[int, ...] | str) -> None:
    env = fake_nvcc(tmp_path / "tools") | {"PATH": "/nonexistent", "PATCHCORE_FAST_CUDA_ARCHS": ""}
    if said:
        env = with_cards(env, tmp_path / "driver", said)
    found = tools.decide_cuda(env, None)
    if isinstance(archs, str):
        assert found == f"{archs} (PATCHCORE_FAST_CUDA_ARCHS names cards to build for)"
        assert build.cuda_settings(found)["PCF_CUDA_REFUSAL"] == found  # whole, for doctor and explain_backends
        assert not (tmp_path / "tools" / "calls").exists()  # nvcc has not run: its trial alone takes seconds
        everything = tools.decide_cuda(env | {"PATCHCORE_FAST_CUDA": "1"}, None)
        assert everything.archs == tools.ALL
        assert f"(PATCHCORE_FAST_CUDA=1 and {archs}: all; PATCHCORE_FAST_CUDA_ARCHS can" in everything.line()
    else:
        assert (found.archs, found.chosen) == (archs, "the GPUs here")
    named = tools.decide_cuda(env | {"PATCHCORE_FAST_CUDA_ARCHS": "100"}, None)
    assert named.archs == (100,)


def test_cuda_needs_the_rest_of_the_module(tmp_path: Path) -> None:
    env = without(PATH=str(tmp_path), PATCHCORE_FAST_CUDA="1")
    with pytest.raises(SystemExit, match="PATCHCORE_FAST_CUDA=1, but the native module cannot be built: no C\\+\\+"):
        build.decide(env)
    with pytest.raises(SystemExit, match=r"PATCHCORE_FAST_CUDA=1, but .*: PATCHCORE_FAST_NATIVE=0"):
        build.decide(without(PATCHCORE_FAST_CUDA="1", PATCHCORE_FAST_NATIVE="0"))


def test_what_cmake_is_told(tmp_path: Path) -> None:
    found = tools.decide_cuda(fake_nvcc(tmp_path), "/usr/bin/g++")
    told = build.cuda_settings(found)
    assert told == {
        "PCF_CUDA": "ON",
        "PCF_CUDA_ARCHS": "75;80;86;89;90;100;120",
        "CMAKE_CUDA_COMPILER": str(tmp_path / "nvcc"),
        "CMAKE_CUDA_HOST_COMPILER": "/usr/bin/g++",
    }
    reason = 'no "nvcc"; rm -rf $HOME\n\\n'
    assert build.cuda_settings(reason) == {"PCF_CUDA": "OFF", "PCF_CUDA_REFUSAL": "no _nvcc_ rm -rf _HOME_n"}
    folders = {build.build_folder({}, "a"), build.build_folder({}, "b"), build.build_folder({}, found)}
    folders.add(build.build_folder({}, found._replace(archs=(86,))))
    assert len(folders) == 3


def test_version() -> None:
    from patchcore_fast import __version__

    assert build.package_version({}) == build.package_version({"PATCHCORE_FAST_LOCAL_VERSION": ""}) == __version__
    assert build.package_version({"PATCHCORE_FAST_LOCAL_VERSION": "cu128"}) == f"{__version__}+cu128"
    with pytest.raises(SystemExit, match=r"PATCHCORE_FAST_LOCAL_VERSION must be .* got '\+cu 128'"):
        build.package_version({"PATCHCORE_FAST_LOCAL_VERSION": "+cu 128"})


@pytest.mark.thorough
@needs_tools
def test_an_nvcc_that_fails_fails_the_build(tmp_path: Path) -> None:
    have = tools.find_toolkit(os.environ | {"PATCHCORE_FAST_CUDA_ARCHS": "80"}, None)
    if isinstance(have, str):
        pytest.skip(have)
    source = copy_of_the_sources(tmp_path / "source")
    complaint = 'case "$*" in *device.cu*) echo "device.cu: no" >&2; exit 1;; esac'
    nvcc = program(tmp_path, "nvcc", f'{complaint}\nexec {have.nvcc} "$@"')  # it passes the trial and those of CMake
    real = build.find_compiler(os.environ)
    idle = wrapped_compiler(tmp_path, "*/csrc/*.cpp*", "exit 0")  # Ninja waits for what runs beside what fails
    env = without(PATCHCORE_FAST_CUDA="auto", PATCHCORE_FAST_CUDA_ARCHS="80", CUDACXX=nvcc, CXX=idle, CUDAHOSTCXX=real)
    done = subprocess.run([sys.executable, "setup.py", "build_ext"], cwd=source, env=env, **captured)
    assert done.returncode != 0, done.stdout
    assert "with CUDA kernels: nvcc" in done.stdout and "device.cu: no" in done.stdout
    assert "PATCHCORE_FAST_CUDA=0 builds it without CUDA kernels" in done.stdout
    assert "WITHOUT" not in done.stdout and not list((source / "build").glob("lib*/**/_native*.so"))
