"""What run.py runs, most important first: commands, what they may take, where their results go. No code of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import ROOT


@dataclass(frozen=True)
class Part:
    """One step.

    most : seconds after which it is ended.
    command : what runs; {python}, {device} and {sanitizer} are filled in, --json is added where there is `into`.
    tiny : what is added to it in a dry run on the CPU: of two equal options the later holds.
    instead : what runs in place of it there. Without both it is left out there, and `absent` says why.
    into : name of the result file, without .json, that its problems go to.
    skip : why it cannot run here, or None.
    environment : variables besides those of the caller.
    """

    name: str
    most: float
    command: tuple[str, ...]
    tiny: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    into: str = ""
    skip: Callable[[], str | None] = lambda: None
    absent: str = "there is nothing to compile without a CUDA device"
    environment: dict[str, str] = field(default_factory=dict)

    def small(self) -> tuple[str, ...]:
        """The command of a dry run, without the sanitizer; empty where there is none."""
        start = self.command.index("{python}")
        return self.instead or (self.tiny and (*self.command[start:], *self.tiny))


def _no_pipeline() -> str | None:
    from benchmarks.harness.options import without_pipeline

    reason = without_pipeline()
    return f"whole runs need photographs and weights: {reason}" if reason else None


def sanitizer() -> str:
    """Path of compute-sanitizer; empty where there is none."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), f"{home}/bin"])) or ""


def _no_sanitizer() -> str | None:
    return None if sanitizer() else "compute-sanitizer not here"


def _script(name: str, *options: str) -> tuple[str, ...]:
    """A benchmark: at most 40 s for any answer, so that one provider that hangs does not take the part with it."""
    return ("{python}", "-m", f"benchmarks.speed.{name}", "--device", "{device}", "--answer-s", "40", *options)


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TESTS = ("-q", "--maxfail=25", "--continue-on-collection-errors", "-p", "no:cacheprovider")
_FOLDERS = [folder for folder in ("tests/triton", "tests/kernels") if (ROOT / folder).is_dir()]
_CUDA_TESTS = [folder for folder in ("tests/cuda", "tests/kernels") if (ROOT / folder).is_dir()]
_ARITHMETIC = ("triton ieee", "triton tf32x3", "triton tf32", "triton bf16")
_CUDA = ("cuda", "cuda ieee", "cuda tf32x3")  # beside "triton", for choose_backend.py
_GRAPHS = ("triton graph", "triton no graph", "cuda graph", "cuda no graph")
_LOOPS = ("gemv loop", "anomalib loop")
_OURS = ("--providers", "patchcore_fast", "torch")
_SANITIZE = (
    "--error-exitcode",
    "9",
    "{python}",
    "-m",
    "benchmarks.gpu.sanitize",
    "--rows",
    "90",
    "--only",
    "weights",
    "k = 9",
)
_SANITIZE_CUDA = (*_SANITIZE, "--backend", "cuda")
_UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # torch's own pool would hide what is out of bounds
_EIGHT = _split("--case low-rank --n 10000000 --k 1000 --memory-gb 8 --repeat 1 --limit-s 5 --check-picks 200")
_BOUNDED = ("--also", "triton 512 MB", *_OURS, "gemv loop", "amazon")
_TINY = _split("--case low-rank --n 3000 --d 16 --repeat 2 --limit-s 1 --warm")
_ONE = (*_TINY, "--providers", "torch")  # a process of its own for each takes most of a dry run
_COMMAND_LINE = "import sys; from patchcore_fast.cli import main; sys.exit(main())"  # also where nothing is installed
_ON_CPU = _split("--device cpu --backend torch --rows 60")

PARTS = (
    Part("build", 150, _split("{python} -m benchmarks.gpu.build"), instead=_split("{python} -m pip --version")),
    Part("warmup", 60, ("{python}", "-c", _COMMAND_LINE, *_split("warmup --dim 128 1024"))),
    Part("small case", 70, _split("{python} -m benchmarks.gpu.sanitize --device {device}"), tiny=_ON_CPU),
    Part("small case, cuda", 40, _split("{python} -m benchmarks.gpu.sanitize --device {device} --backend cuda"),
         tiny=_ON_CPU),
    Part("kcenter", 150, _script("kcenter", *_split("--case bottle --n 163840 --ratio 0.01 0.1 --repeat 5 --limit-s 3"),
                                 "--without", "amazon exact", "--also", "anomalib loop", "triton", *_CUDA,
                                 *_ARITHMETIC, *_GRAPHS),
         into="kcenter", tiny=(*_TINY, *_OURS, "gemv loop")),
    Part("knn", 100, _script("knn", *_split("--repeat 5 --also GEMM"), "GEMM tf32", "triton", *_CUDA, *_ARITHMETIC),
         into="knn", tiny=(*_TINY, *_split("--queries 1500 --providers torch"), "torch whole")),
    Part("memcheck, cuda", 60, ("{sanitizer}", "--tool", "memcheck", *_SANITIZE_CUDA), skip=_no_sanitizer,
         environment=_UNCACHED, tiny=_ON_CPU),
    Part("racecheck, cuda", 60, ("{sanitizer}", "--tool", "racecheck", *_SANITIZE_CUDA), skip=_no_sanitizer,
         tiny=_ON_CPU),
    Part("tests, cuda", 90, ("{python}", "-m", "pytest", *_CUDA_TESTS, *_TESTS, "-k", "cuda-cuda"),
         instead=("{python}", "-m", "pytest", "tests/files", *_TESTS)),
    Part("tests", 90, ("{python}", "-m", "pytest", *_FOLDERS, *_TESTS, "-k", "triton or torch-cuda"),
         instead=("{python}", "-m", "pytest", "tests/files", *_TESTS)),
    Part("wide 1024", 60, _script("kcenter", *_split("--case bottle-1024 --n 163840 --ratio 0.01 0.1 --repeat 3"),
                                  *_split("--limit-s 3 --check-picks 2000 --also"), "triton ieee", *_OURS, *_LOOPS,
                                  "amazon", "ours for amazon"), into="kcenter-large", tiny=(*_ONE, "--d", "96")),
    Part("8 GB, float32", 100, _script("kcenter", *_EIGHT, *_BOUNDED), into="memory-8gb", tiny=(*_ONE, "--k", "40")),
    Part("4 M, 1 %", 75, _script("kcenter", *_split("--case low-rank --n 4000000 --ratio 0.01 --repeat 2 --limit-s 3"),
                                 *_split("--check-picks 1000"), *_OURS, *_LOOPS), into="kcenter-large", tiny=_ONE),
    Part("rarity", 50, _script("rarity", *_split("--repeat 5 --also"), *_ARITHMETIC), into="rarity",
         tiny=(*_ONE, "torch chunks")),
    Part("memcheck", 60, ("{sanitizer}", "--tool", "memcheck", *_SANITIZE), skip=_no_sanitizer, environment=_UNCACHED,
         tiny=_ON_CPU),
    Part("wide 1536", 50, _script("kcenter", *_split("--case low-rank --n 163840 --d 1536 --ratio 0.01 0.1 --repeat 3"),
                                  *_split("--limit-s 2 --check-picks 1000"), *_OURS, *_LOOPS), into="kcenter-large",
         tiny=(*_ONE, "--d", "80")),
    Part("pipeline", 60, _split("{python} -m benchmarks.speed.pipeline --device {device}"), into="pipeline",
         skip=_no_pipeline, instead=_split("{python} -m benchmarks.speed.pipeline --list")),
    Part("4 M, 10 %", 60, _script("kcenter", *_split("--case low-rank --n 4000000 --ratio 0.1 --repeat 1 --limit-s 3"),
                                  *_split("--check-picks 500 --providers patchcore_fast"), "gemv loop"),
         into="kcenter-large", tiny=_ONE),
    Part("racecheck", 60, ("{sanitizer}", "--tool", "racecheck", *_SANITIZE), skip=_no_sanitizer, tiny=_ON_CPU),
    Part("8 GB, float16", 90, _script("kcenter", *_EIGHT, *_BOUNDED, "--dtype", "float16"), into="memory-8gb",
         tiny=(*_ONE, "--k", "40")),
)  # fmt: skip
