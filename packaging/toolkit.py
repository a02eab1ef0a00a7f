"""Which CUDA kernels the build makes: PATCHCORE_FAST_CUDA, the nvcc that is here, and for which cards.

setup.py loads this file by its path; nothing outside the standard library is imported.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ALL = (75, 80, 86, 89, 90, 100, 120)  # what a released wheel holds: 80 seconds of one core
OLDEST_CARD = 75
OLDEST_NVCC = (12, 8)  # the first that knows 100 and 120
CUDA, ARCHS = "PATCHCORE_FAST_CUDA", "PATCHCORE_FAST_CUDA_ARCHS"

# Needs what the kernels need: the compiler, a host compiler that it accepts, the runtime's headers and static library.
TRIAL = """#include <cuda_runtime.h>
__global__ void trial(float* p) { p[threadIdx.x] += 1.0f; }
extern "C" int run(float* p) { trial<<<1, 32>>>(p); return static_cast<int>(cudaGetLastError()); }
"""


class Toolkit(NamedTuple):
    """An nvcc that works, and the compute capabilities to compile for, as 86 for 8.6; PTX is that of the last."""

    nvcc: str
    version: tuple[int, int]
    archs: tuple[int, ...]
    host: str | None
    chosen: str

    def line(self) -> str:
        """What is built, for the log."""
        archs = ", ".join(map(str, self.archs))
        return (
            f"patchcore_fast: with CUDA kernels: nvcc {dotted(self.version)}, for {archs} and PTX of {self.archs[-1]} "
            f"({self.chosen})"
        )


def dotted(version: tuple[int, int]) -> str:
    """12.8"""
    return f"{version[0]}.{version[1]}"


def mode(env: Mapping[str, str], variable: str) -> str:
    """PATCHCORE_FAST_NATIVE or PATCHCORE_FAST_CUDA: "auto", "1" or "0"."""
    value = env.get(variable, "") or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{variable} must be auto, 1 or 0, got {value!r}")
    return value


def asked_archs(env: Mapping[str, str]) -> tuple[int, ...] | None:
    """PATCHCORE_FAST_CUDA_ARCHS in rising order, each once; None where it is not set.

    Raises
    ------
    SystemExit : it is no list of compute capabilities of 7.5 or later.
    """
    text = env.get(ARCHS, "").strip()
    if not text:
        return None
    if text == "all":
        return ALL
    found = set()
    for word in re.split(r"[;,\s]+", text.strip(";, ")):
        if not re.fullmatch(r"\d{2,3}|\d{1,2}\.\d", word):  # 8.6 is how torch writes it
            raise SystemExit(f'{ARCHS} must be compute capabilities as in "86;90", or all; got {word!r} in {text!r}')
        number = int(word.replace(".", ""))
        if number < OLDEST_CARD:
            raise SystemExit(f"{ARCHS}: the kernels need compute capability 7.5 (75) or later, got {word}")
        found.add(number)
    return tuple(sorted(found))


def find_nvcc(env: Mapping[str, str]) -> str | None:
    """CUDACXX, or nvcc in PATH, CUDA_HOME, CUDA_PATH or where the installer puts it."""
    if named := env.get("CUDACXX", "").strip():
        return shutil.which(named, path=env.get("PATH", ""))
    folders = [env.get("PATH", ""), *(f"{env[name]}/bin" for name in ("CUDA_HOME", "CUDA_PATH") if env.get(name))]
    return shutil.which("nvcc", path=os.pathsep.join([*folders, "/usr/local/cuda/bin"]))


def _said(command: Sequence[str], env: Mapping[str, str], seconds: float = 60) -> tuple[bool, str]:
    """Whether a program ended well, and what it printed."""
    try:
        done = subprocess.run(
            command, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, text=True,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as e:
        return False, str(e)
    return done.returncode == 0, done.stdout


def cards(env: Mapping[str, str]) -> list[int]:
    """Compute capabilities of this machine's GPUs, as nvidia-smi has them; empty where there is none."""
    if (program := shutil.which("nvidia-smi", path=env.get("PATH", ""))) is None:
        return []
    good, text = _said([program, "--query-gpu=compute_cap", "--format=csv,noheader"], env)
    found = re.findall(r"^\s*(\d+)\.(\d)\s*$", text, re.MULTILINE) if good else []
    return sorted({int(major + minor) for major, minor in found})


def choose_archs(here: Sequence[int], known: Sequence[int]) -> tuple[int, ...]:
    """The capabilities to compile for on a machine with GPUs of those capabilities; empty where none of them is ours.

    Parameters
    ----------
    known : of nvcc. A GPU newer than nvcc gets the newest code that nvcc can make, to be compiled on by the driver.
    """
    able = [arch for arch in here if arch >= OLDEST_CARD]
    return tuple(sorted({max((k for k in known if k <= arch), default=OLDEST_CARD) for arch in able}))


def find_toolkit(env: Mapping[str, str], host: str | None) -> Toolkit | str:
    """The nvcc to build with, or in words what is wrong with what is here.

    Compiled for are the cards that PATCHCORE_FAST_CUDA_ARCHS names, else those in this machine. Where there are none,
    auto builds no kernels, before it has run nvcc: they would cost minutes and lie idle. 1 builds them for all cards.

    Parameters
    ----------
    host : the C++ compiler, that nvcc is to use too unless CUDAHOSTCXX names another.
    """
    asked = asked_archs(env)
    nvcc = find_nvcc(env)
    if nvcc is None:
        named = env.get("CUDACXX", "").strip()
        return f"CUDACXX={named} is not there" if named else "no nvcc (in PATH, CUDA_HOME or /usr/local/cuda)"
    here = [] if asked else cards(env)
    none = "no GPU here" if not here else f"no GPU of compute capability {OLDEST_CARD / 10} or later here"
    if not asked and not choose_archs(here, ALL) and mode(env, CUDA) != "1":
        return f"{none} ({ARCHS} names cards to build for)"
    good, text = _said([nvcc, "--version"], env)
    found = re.search(r"release (\d+)\.(\d+)", text)
    if not good or found is None:
        return f"{nvcc} --version does not work: {_last_line(text)}"
    version = (int(found[1]), int(found[2]))
    if version < OLDEST_NVCC:
        return f"{nvcc} is of CUDA {dotted(version)}, {dotted(OLDEST_NVCC)} or later is wanted"
    known = [int(arch) for arch in re.findall(r"compute_(\d+)\b", _said([nvcc, "--list-gpu-arch"], env)[1])]
    if asked:
        archs, why = asked, ARCHS
    elif archs := choose_archs(here, known):
        why = "the GPUs here"
    else:
        archs, why = ALL, f"{CUDA}=1 and {none}: all; {ARCHS} can name fewer"
    if unknown := [arch for arch in archs if arch not in known]:
        have = ", ".join(str(k) for k in sorted(known) if k >= OLDEST_CARD) or "none of ours"
        line = f"nvcc {dotted(version)} does not know {', '.join(map(str, unknown))}; it knows {have}"
        if asked is not None:  # whoever names cards wants them, also where the rest is left to auto
            raise SystemExit(f"patchcore_fast: {ARCHS}={env[ARCHS]}: {line}")
        return line
    compiler = env.get("CUDAHOSTCXX", "").strip() or (host if host and len(shlex.split(host)) == 1 else None)
    tools = Toolkit(nvcc, version, archs, compiler, why)
    return _try(tools, env) or tools


def _try(tools: Toolkit, env: Mapping[str, str]) -> str | None:
    """Compile and link a few lines for the cards wanted; None if that works."""
    wanted = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in tools.archs]
    host = ["-ccbin", tools.host] if tools.host else []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.cu")
        source.write_text(TRIAL)
        shape = ["-shared", "-cudart=static", "-Xcompiler=-fPIC", "-o", f"{folder}/trial.so"]
        good, text = _said([tools.nvcc, *wanted, *host, *shape, str(source)], env, seconds=300)
    return None if good else f"{tools.nvcc} does not compile a trial: {_complaint(text)}"


def _complaint(text: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), _last_line(text))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing")


def decide_cuda(env: Mapping[str, str], host: str | None) -> Toolkit | str:
    """What to build CUDA kernels with, or in words why there are none; SystemExit if =1 cannot be."""
    asked = mode(env, CUDA)
    found = f"{CUDA}=0" if asked == "0" else find_toolkit(env, host)
    if isinstance(found, Toolkit):
        return found
    if asked == "1":
        raise SystemExit(
            f"patchcore_fast: {CUDA}=1, but CUDA kernels cannot be built: {found}. Install the CUDA toolkit "
            f"({dotted(OLDEST_NVCC)} to 13.x) and put its bin folder into PATH, or name its nvcc in CUDACXX; "
            f"{CUDA}=0 builds without them."
        )
    return found
