"""Launches that are repeated: what they hand over is what triton's own way does, and it is looked up once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from patchcore_fast.kernels.backends.triton_kernels.launch import Launch


class Kernel:
    """What a Launch sees of triton: a kernel that notes how it is called."""

    arg_names = ("x_ptr", "rows", "B", "C")

    def __init__(self, compiled: bool) -> None:
        self.compiled, self.calls = compiled, []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*arguments: object, **options: object) -> object:
            self.calls.append(("looked up", grid, arguments, options))
            return Compiled(self.calls) if self.compiled else None

        return run


class Compiled:
    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments: self.calls.append(("again", grid, arguments))


def test_the_second_launch_is_not_looked_up() -> None:
    kernel = Kernel(compiled=True)
    launch = Launch(kernel, (5,), "x", 7, C=True, B=64, num_warps=4, enable_fp_fusion=False)
    for _ in range(3):
        launch()
    options = {"C": True, "B": 64, "num_warps": 4, "enable_fp_fusion": False}
    again = ("again", (5, 1, 1), ("x", 7, 64, True))
    assert kernel.calls == [("looked up", (5,), ("x", 7), options), again, again]


def test_the_interpreter_is_called_each_time() -> None:
    kernel = Kernel(compiled=False)
    launch = Launch(kernel, (2, 3), "x", 7, B=64, C=1)
    launch()
    launch()
    assert kernel.calls == [("looked up", (2, 3), ("x", 7), {"B": 64, "C": 1})] * 2


def test_a_pass_is_started_alike_by_both_ways() -> None:
    """With triton's own launching code, on a device that is made up; the script compares every argument."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.launches", "--runs", "2"], capture_output=True, text=True,
        env=os.environ | {"TRITON_INTERPRET": "0"}, cwd=Path(__file__).parents[2], timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["launches"] == 14
