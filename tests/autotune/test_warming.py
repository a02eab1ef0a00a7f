"""First calls made beforehand, through the command that makes them; in the interpreter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from patchcore_fast.cli import main
from patchcore_fast.cli.warmup import render
from patchcore_fast.kernels.backends.triton_kernels.launch import interpreted


@pytest.mark.skipif(not interpreted(), reason="kernels run on a GPU here")
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
