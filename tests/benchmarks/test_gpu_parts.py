"""gpu/parts.py: commands that name what there is, limits that fit, tests of which none is left out unsaid."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.gpu import runner
from benchmarks.gpu.parts import CALLS, Part
from benchmarks.gpu.run import TOTAL_S
from benchmarks.harness import options

from ..programs import run

PARTS = [part for parts in CALLS.values() for part in parts]
# Files of the rooms that a tests part leaves out, and why.
LEFT_OUT = {
    "tests/cuda/test_table.py": "reads what nvcc compiles",
    "tests/triton/test_compiled.py": "compiles 294 variants",
    "tests/triton/test_catalogue.py": "is about the launches, in the interpreter",
    "tests/kernels/test_bad_input.py": "refusals, before any engine",
    "tests/kernels/test_memory.py": "resident memory of CPU engines",
    "tests/kernels/test_native_library.py": "of the native engine",
    "tests/kernels/test_ops.py": "of CPU engines",
    "tests/kernels/test_processors.py": "of CPU engines",
    "tests/kernels/test_surroundings.py": "of CPU engines",
    "tests/kernels/test_tensor_cores.py": "the verdict on made-up answers",
}


@pytest.mark.parametrize("call", CALLS)
def test_limits_fit_the_call(call: str) -> None:
    parts = CALLS[call]
    assert sum(part.most for part in parts) <= TOTAL_S
    seconds = re.search(r"--kill-after=(\d+) (\d+)", (ROOT / "benchmarks" / "gpu.sh").read_text())
    assert seconds and int(seconds[2]) >= TOTAL_S + 10 and int(seconds[1]) + int(seconds[2]) < 9 * 60
    assert all(part.most > runner.GRACE_S for part in parts)
    assert len({part.name for part in parts}) == len(parts) and [p.name for p in parts[:2]] == ["build", "device"]
    assert len({part.into for part in parts if part.into}) <= 6  # with the summary and the log eight files
    most = len(parts) * (runner.LOG_BYTES + 300) + runner.OLD_LOG_BYTES + 6 * runner.RESULT_BYTES + (1 << 20)
    assert most < 16 << 20


def test_calls_write_different_files() -> None:
    names = [{part.into for part in parts if part.into} for parts in CALLS.values()]
    assert sum(map(len, names)) == len(set().union(*names))


def test_the_headline_comes_first_and_compiles_no_triton() -> None:
    names = [part.name for part in CALLS["A"]]
    assert names == ["build", "device", "small case, cuda", "kcenter 1 %", "kcenter 10 %", "knn", "tests, cuda"]
    for part in CALLS["A"]:
        assert not any(word.startswith("triton") for word in part.command), part


@pytest.mark.parametrize("part", [p for p in PARTS if p.into and p.into != "pipeline"], ids=lambda part: part.name)
def test_measuring_commands_can_be_read(part: Part, in_process: object) -> None:
    command = list(part.command)
    script = next(word for word in command if word.startswith("benchmarks."))
    name = script.rpartition(".")[2]
    own = {"--ratio", "--k", "--check-picks", "--dtype", "--queries"}  # of kcenter.py or knn.py alone
    for words in (command, [*command, *part.tiny]):
        args, unknown = options.parser(name, "").parse_known_args(words[words.index(script) + 1 :])
        args.device = "cpu"
        options.finish(args, {})
        chosen = options.chosen(args, name)
        assert {word for word in unknown if word.startswith("--")} <= own and args.answer_s == 90
        assert words != command or "patchcore_fast" in chosen
        if words == command and part.into in ("kcenter", "knn"):
            assert {"patchcore_fast cuda", "patchcore_fast cuda ieee"} <= set(chosen)
            assert part.into == "knn" or {"gemv loop", "anomalib loop"} <= set(chosen)
        if words == command and part.name in ("kcenter, triton", "knn, triton"):
            assert {"patchcore_fast triton", "patchcore_fast cuda"} <= set(chosen)  # choose_backend.py compares them


def test_every_command_names_what_there_is() -> None:
    for part in PARTS:
        for command in (part.command, part.small() or part.command):
            assert {"{python}"} <= set(command), part
            for word in command:
                assert not word.startswith("benchmarks.") or importlib.util.find_spec(word), word
                path = word.removeprefix("--ignore=")
                assert not path.startswith("tests/") or (ROOT / path).exists(), path


TESTS = [part for part in PARTS if "pytest" in part.command]
# The tests that are loaded where this forks from know of other engines.
COLLECT = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
    del sys.modules[name]
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("part", TESTS, ids=lambda part: part.name)
def test_tests_parts_leave_nothing_out_unsaid(part: Part) -> None:
    """What pytest collects for the part, here as on a card: whole files, and nothing of them deselected but what is
    marked as thorough, for any of its engines."""
    assert "-k" not in part.command and "-m" not in part.command[3:]
    assert part.command[:3] == ("{python}", "-m", "pytest")
    asked = [*part.command[3:], "--collect-only", "--override-ini", "addopts=--strict-markers -m 'not thorough'"]
    done = run(COLLECT, *asked, cwd=ROOT, env={**os.environ, **part.environment})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = [line for line in done.stdout.splitlines() if "::" in line]
    files = {line.partition("::")[0] for line in found}
    rooms = sorted({f"tests/{word.split('/')[1]}" for word in part.command if word.startswith("tests/")})
    there = {f"{room}/{file.name}" for room in rooms for file in (ROOT / room).glob("test_*.py")}
    assert there - files == {file for file in LEFT_OUT if file.rpartition("/")[0] in rooms}
    # Every test that depends on an engine is there for each engine that the part is about.
    engines = part.environment["PATCHCORE_FAST_TEST_ENGINES"].split()
    for file in ("tests/kernels/test_kcenter.py", "tests/kernels/test_knn.py"):
        ids = [line for line in found if line.startswith(file)]
        count = {engine: sum(engine in line for line in ids) for engine in engines}
        assert len(set(count.values())) == 1 and min(count.values()) > 100, count
    for file in ("test_kcenter.py", "test_kcenter_running.py", "test_knn.py", "test_knn_running.py"):
        if "tests/cuda" in rooms:
            ids = [line for line in found if line.startswith(f"tests/cuda/{file}")]
            assert len(ids) > 15 and all("cuda-cuda" in line for line in ids), file


def test_the_tests_that_are_left_out_are_there() -> None:
    assert all((ROOT / Path(file)).exists() for file in LEFT_OUT)
