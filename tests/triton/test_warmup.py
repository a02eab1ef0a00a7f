"""warmup: on the interpreter where there is no GPU; the compile clock on a driver that only pretends to be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from patchcore_fast.cli import main, parser
from patchcore_fast.cli.warmup import render
from patchcore_fast.kernels import tuning
from patchcore_fast.kernels.backends.triton_kernels import measure, tile_cache, tiles, warming
from patchcore_fast.kernels.backends.triton_kernels.launch import interpreted
from patchcore_fast.kernels.backends.triton_kernels.tile_table import candidates

only_interpreted = pytest.mark.skipif(not interpreted(), reason="kernels run on a GPU here")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "patchcore-fast: error: nothing to warm up on cuda: torch finds no CUDA device\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dim", "0"], "--dim must be at least 1, got 0"),
        (["--device", "mps"], "nothing to warm up on mps: Triton kernels run on CUDA devices, not on mps"),
    ],
)
def test_what_cannot_be_done(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["warmup", *arguments]) == 2
    assert capsys.readouterr().err == f"patchcore-fast: error: {message}\n"


@only_interpreted
def test_calls_are_made_and_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(tmp_path))
    assert main(["warmup", "--device", "cpu", "--dim", "5", "--dtype", "float16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["call"] for c in found["calls"]] == [
        "k_center_greedy, 48 rows, 5 columns, float16, float32",
        "knn, k = 1, 48 rows, 5 columns, float16, float32",
        "knn, k = 9, 48 rows, 5 columns, float16, float32",
    ]
    assert all(c["first"] > 0 and c["again"] > 0 for c in found["calls"])
    assert found["seconds"] == pytest.approx(sum(c["first"] for c in found["calls"]))
    assert found["kernels"] == {} and found["tiles_tuned"] == 0  # the interpreter compiles nothing
    assert "all were loaded already, or Triton's interpreter runs them" in render(found)
    assert not list(tmp_path.iterdir())  # times of an interpreter are not worth keeping
    assert main(["warmup", "--device", "cpu", "--autotune"]) == 2
    assert "--autotune wants a CUDA device, got cpu" in capsys.readouterr().err


def test_every_precision_can_be_asked_for() -> None:
    assert parser.PRECISIONS == tuning.PRECISIONS


def test_text_names_kernels_and_calls() -> None:
    call = {"call": "knn", "first": 1.5, "again": 0.002, "kernels": {}}
    text = render({"kernels": {"search.search_kernel": 1.2}, "calls": [call], "seconds": 1.5, "tiles_tuned": 2,
                   "cache_file": "/c/triton.json"})  # fmt: skip
    assert "  search.search_kernel    1.20 s" in text and "1.50 s      2.00 ms  knn" in text
    assert "Tiles tuned: 2, kept in /c/triton.json" in text and text.endswith("First calls took 1.5 s in all.")


def test_tuning_goes_over_kernels_widths_and_arithmetics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(warming, "capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Imaginary 1000")
    tiles.forget()
    asked = []

    def seconds(kernel, dim, mode, tile):
        asked.append((kernel, dim, mode))
        return float(len(asked))

    assert warming.tune_all(torch.device("cpu"), [64, 1024], ["float32", "bf16"], seconds) == 8
    assert list(dict.fromkeys(asked)) == [
        (k, d, m) for d in (64, 1024) for m in ("ieee", "bf16") for k in ("update", "search")
    ]
    found = tile_cache.read()["tiles"]
    assert len(found) == 8 and all(key.startswith("Imaginary 1000|8.6|") for key in found)
    first = candidates("update", (8, 6), 64, "ieee")[0]
    (key,) = [k for k in found if k.endswith("update|64|ieee")]
    assert tile_cache.as_tile(found[key], (first,)) == first
    tiles.forget()


@only_interpreted
@pytest.mark.parametrize("kernel", ["update", "search"])
def test_what_autotuning_times(kernel: str) -> None:
    """The call behind a measurement, on rows as few as the widest features leave."""
    result = measure._call(kernel, torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), "float32")()
    sizes = [part.shape[0] for part in (result if isinstance(result, tuple) else (result.indices,))]
    assert sizes == ([12] if kernel == "update" else [6, 6]) or sizes == [12, 12]


CLOCK = """
import json, types
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from patchcore_fast.kernels.backends.triton_kernels.clock import _hooks, compile_clock
from patchcore_fast.kernels.backends.triton_kernels.frame import look_kernel

class Driver:
    # As much of a CUDA driver as compiling without launching asks for.
    utils = types.SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 101376})
    def get_current_device(self): return 0
    def get_current_stream(self, device=0): return 0
    def get_current_target(self): return GPUTarget("cuda", 86, 32)
    def get_active_torch_device(self): return torch.device("cpu")

driver.set_active(Driver())
x, largest, broken = torch.zeros(32, 32), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int32)
def compile(columns):
    look_kernel.warmup(x, 32, 1, 32, columns, largest, broken, M=32, K=32, enable_fp_fusion=False, grid=(1,))
owner, before, after = _hooks()
kept = getattr(owner, before), getattr(owner, after)
with compile_clock() as seconds:
    compile(32)
once = dict(seconds)
with compile_clock() as seconds:
    compile(32)
again = dict(seconds)
with compile_clock() as seconds:
    compile(33)
assert (getattr(owner, before), getattr(owner, after)) == kept
print(json.dumps([once, again, dict(seconds)]))
"""


def test_the_clock_times_what_triton_compiles(tmp_path: Path) -> None:
    place = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CLOCK], capture_output=True, text=True, env=place, timeout=300)
    assert done.returncode == 0, done.stderr
    once, again, other = json.loads(done.stdout)
    assert set(once) == set(other) == {"frame.look_kernel"} and 0 < once["frame.look_kernel"] < 120
    assert again == {}  # was compiled in this process
