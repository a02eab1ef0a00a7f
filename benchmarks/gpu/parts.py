"""What run.py runs, most important first: commands, what they may take, where their results go. No code of its own.

Three calls of less than nine minutes. A has the figures that were asked for, on the precompiled CUDA kernels; B is
about what is right (Triton, tests, sanitizers) and large; C is the rest. The limits of a call add up to what it may
take.

Seconds: not measured on a device yet. Compiling one Triton kernel took 1-6 s of one core offline, 42 kernels for one
card 110 s of a busy one; the CUDA kernels for one card took 44 s on two cores. So nothing of A compiles Triton kernels
(unless the CUDA build fails), and where B and C do, several processes compile at the same time, into a cache that
stays.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """One step.

    most : seconds that it may take, its end included; what parts before it have left over comes on top, at most as
        much again.
    command : what runs; run.py fills in {python}, {device}, {sanitizer} and in a dry run {cuda} and {triton}, a backend
        that runs on the CPU. --json is added where there is `into`.
    tiny : what is added to it in a dry run on the CPU: of two equal options the later holds.
    instead : what runs in place of it there. Without both it is left out there, and `absent` says why.
    into : name of the result file, without .json, that its problems go to.
    describes : it prints the environment.
    skip : why it cannot run here, or None.
    environment : variables besides those of the caller.
    """

    name: str
    most: float
    command: tuple[str, ...]
    tiny: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    into: str = ""
    describes: bool = False
    skip: Callable[[], str | None] = lambda: None
    absent: str = "there is nothing to compile without a CUDA device"
    environment: dict[str, str] = field(default_factory=dict)

    def small(self) -> tuple[str, ...]:
        """The command of a dry run; empty where there is none."""
        return self.instead or (self.tiny and (*self.command, *self.tiny))


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


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _script(name: str, *options: str) -> tuple[str, ...]:
    """A benchmark: at most 90 s for any answer, a cold compilation's, so that one that hangs does not take all."""
    return ("{python}", "-m", f"benchmarks.speed.{name}", "--device", "{device}", "--answer-s", "90", *options)


def _kcenter(text: str, *providers: str) -> tuple[str, ...]:
    return _script("kcenter", *_split(text), "--providers", *providers)


def _tests(*places: str) -> tuple[str, ...]:
    """Whole rooms and files, the usual tests: what is thorough takes minutes. In 8 processes where xdist is there."""
    several = ("-n", str(min(8, os.cpu_count() or 1))) if importlib.util.find_spec("xdist") else ()
    options = ("-q", "-rfE", "--maxfail=25", "--continue-on-collection-errors", "-p", "no:cacheprovider")
    return ("{python}", "-m", "pytest", *places, *options, *several)


def _at_once(*commands: tuple[str, ...]) -> tuple[str, ...]:
    return ("{python}", "-m", "benchmarks.gpu.together", *(word for command in commands for word in ("+++", *command)))


def _sanitized(tool: str, backend: str) -> tuple[str, ...]:
    return ("{sanitizer}", "--tool", tool, "--error-exitcode", "9", "{python}", "-m", "benchmarks.gpu.sanitize",
            "--backend", backend, *_split("--rows 90 --only weights"), "k = 9")  # fmt: skip


_COMMAND_LINE = "import sys; from patchcore_fast.cli import main; sys.exit(main())"  # also where nothing is installed
_BATTERY = _split(
    "tests/kernels/test_additive.py tests/kernels/test_kcenter.py tests/kernels/test_kcenter_behaviour.py "
    "tests/kernels/test_knn.py tests/kernels/test_on_a_gpu.py tests/kernels/test_prepared.py"
)
_ENGINES = "PATCHCORE_FAST_TEST_ENGINES"  # tests/kernels/engines.py: these or a failure, never the emulator
_NVCC = "--ignore=tests/cuda/test_table.py"  # reads machine code, no card needed
# Minutes of compiling, no card needed.
_OFFLINE = ("--ignore=tests/triton/test_compiled.py", "--ignore=tests/triton/test_catalogue.py")
# On an H100 these would be the same twice: "tf32x3" is what "float32" takes there, "no graph" is the default.
_CUDA = ("cuda", "cuda ieee")
_TRITON = ("triton", "triton graph", "cuda")  # side by side, for choose_backend.py
_REDUCED = ("triton ieee", "triton tf32", "triton bf16")
_LOOPS = ("gemv loop", "anomalib loop")
_OURS = ("patchcore_fast", "torch")
_BOTTLE = "--case bottle --n 163840 --repeat 5 --limit-s 3 --ratio"
_EIGHT = "--case low-rank --n 10000000 --k 1000 --memory-gb 8 --repeat 1 --limit-s 5 --check-picks 200"
_BOUNDED = (*_OURS, "triton 512 MB", "gemv loop", "amazon")
_TINY = _split("--case low-rank --n 3000 --d 16 --repeat 2 --limit-s 1 --warm --together")
_ONE = (*_TINY, "--providers", "torch")  # a process of its own for each takes most of a dry run
_SMALL = _split("--device cpu --rows 50 --only weights")
_FILES = (*_split("{python} -m pytest -q -p no:cacheprovider"), "tests/files/test_files.py")


def _build(most: float) -> Part:
    return Part("build", most, _split("{python} -m benchmarks.gpu.build"), instead=_split("{python} -m pip --version"))


def _device(most: float) -> Part:
    command = _split("{python} -m benchmarks.harness.environment {device}")
    return Part("device", most, command, instead=command, describes=True)


A = (
    _build(110),
    _device(90),
    Part("small case, cuda", 36, _split("{python} -m benchmarks.gpu.sanitize --device {device} --backend cuda"),
         tiny=(*_SMALL, "k = 9", "--backend", "{cuda}")),
    Part("kcenter 1 %", 85, _kcenter(f"{_BOTTLE} 0.01", *_OURS, *_CUDA, "cuda graph", *_LOOPS), into="kcenter",
         tiny=(*_TINY, "--providers", "torch", "gemv loop")),
    Part("kcenter 10 %", 90, _kcenter(f"{_BOTTLE} 0.1", *_OURS, *_CUDA, "cuda graph", *_LOOPS), into="kcenter",
         tiny=_ONE),
    Part("knn", 60, _script("knn", *_split("--repeat 5 --providers GEMM"), "GEMM tf32", "torch chunks", *_OURS, *_CUDA),
         into="knn", tiny=(*_TINY, *_split("--queries 1500 --providers torch"), "torch whole")),
    Part("tests, cuda", 50, _tests("tests/cuda", *_BATTERY, _NVCC), instead=_FILES,
         environment={_ENGINES: "cuda-cuda"}),
)  # fmt: skip
B = (
    _build(75),
    _device(40),
    Part("warmup", 45, _at_once(*(("{python}", "-c", _COMMAND_LINE, "warmup", "--dim", *_split(more))
                                  for more in ("128", "1024", "128 --dtype float16")))),
    Part("small case", 40, _split("{python} -m benchmarks.gpu.sanitize --device {device}"),
         tiny=(*_SMALL, "--backend", "{triton}")),
    Part("tests", 60, _tests("tests/triton", *_BATTERY, *_OFFLINE), instead=_FILES,
         environment={_ENGINES: "triton-cuda torch-cuda"}),
    # All at once: no time of theirs means anything. Without torch's own pool, which would hide what is out of bounds.
    Part("sanitizers", 120, _at_once(*(_sanitized(tool, backend) for backend in ("cuda", "triton")
                                       for tool in ("memcheck", "racecheck"))),
         skip=_no_sanitizer, environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
         instead=_at_once(*2 * [(*_split("{python} -m benchmarks.gpu.sanitize --backend torch"), *_SMALL)])),
    Part("wide 1024", 55, _kcenter("--case bottle-1024 --n 163840 --ratio 0.01 0.1 --repeat 3 --limit-s 3 "
                                   "--check-picks 2000", *_OURS, *_LOOPS, "amazon", "ours for amazon"),
         into="kcenter-large", tiny=(*_ONE, "--d", "96")),
    Part("8 GB, float32", 85, _kcenter(_EIGHT, *_BOUNDED), into="memory-8gb", tiny=(*_ONE, "--k", "40")),
)  # fmt: skip
C = (
    _build(70),
    _device(30),
    Part("kcenter, triton", 60, _kcenter(f"{_BOTTLE} 0.01 0.1", *_OURS, *_TRITON, "anomalib loop"),
         into="kcenter-triton", tiny=_ONE),
    Part("knn, triton", 50, _script("knn", *_split("--repeat 5 --providers GEMM patchcore_fast triton cuda")),
         into="knn-triton", tiny=(*_TINY, *_split("--queries 1500 --providers torch"))),
    Part("rarity", 35, _script("rarity", "--repeat", "5", "--providers", *_OURS, "triton", "cuda", "torch chunks"),
         into="rarity", tiny=(*_ONE, "torch chunks")),
    Part("8 GB, float16", 60, _kcenter(f"{_EIGHT} --dtype float16", *_BOUNDED), into="memory-8gb-half",
         tiny=(*_ONE, "--k", "40")),
    Part("4 M, 1 %", 50, _kcenter("--case low-rank --n 4000000 --ratio 0.01 --repeat 2 --limit-s 3 --check-picks 1000",
                                  *_OURS, *_LOOPS), into="kcenter-more", tiny=_ONE),
    Part("wide 1536", 40, _kcenter("--case low-rank --n 163840 --d 1536 --ratio 0.01 0.1 --repeat 3 --limit-s 2 "
                                   "--check-picks 1000", *_OURS, *_LOOPS),
         into="kcenter-more", tiny=(*_ONE, "--d", "80")),
    Part("pipeline", 30, _split("{python} -m benchmarks.speed.pipeline --device {device}"), into="pipeline",
         skip=_no_pipeline, instead=_split("{python} -m benchmarks.speed.pipeline --list")),
    Part("4 M, 10 %", 40, _kcenter("--case low-rank --n 4000000 --ratio 0.1 --repeat 1 --limit-s 3 --check-picks 500",
                                   "patchcore_fast", "gemv loop"), into="kcenter-more", tiny=_ONE),
    Part("arithmetic", 30, _kcenter(f"{_BOTTLE} 0.01", "patchcore_fast", *_REDUCED), into="kcenter-triton", tiny=_ONE),
    Part("arithmetic, knn", 22, _script("knn", *_split("--repeat 5 --providers patchcore_fast GEMM"), *_REDUCED),
         into="knn-triton", tiny=(*_TINY, *_split("--queries 1500 --providers torch"))),
)  # fmt: skip
CALLS = {"A": A, "B": B, "C": C}
