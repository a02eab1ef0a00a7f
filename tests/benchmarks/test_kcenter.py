"""speed/kcenter.py end to end on tiny problems; no test looks at a time's value."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.harness.providers.own import isas_here
from benchmarks.speed import kcenter
from patchcore_fast.kernels.backends.native_library import native_refusal

from .conftest import rows


def test_table_and_figure(tmp_path: Path, plugin: Path, run: Callable[..., str]) -> None:
    out, plot = tmp_path / "kcenter.json", tmp_path / "kcenter.png"
    names = ["patchcore_fast torch", "gemv loop", "amazon", "anomalib", "wrong"]
    text = run(kcenter, "--case", "clustered", "--n", 1500, 3000, "--d", 16, "--ratio", 0.02, 0.04,
                  "--repeat", 2, "--providers", *names, "--plugin", plugin, "--json", out, "--plot", plot)  # fmt: skip
    result = json.loads(out.read_text())
    assert [(p["n"], p["k"]) for p in result["problems"]] == [(1500, 30), (3000, 60), (3000, 120)]
    for problem in range(3):
        found = rows(out, problem)
        for name in names[:4]:
            row = found[name]
            assert row["status"] == "ok" and row["error"] <= 1e-5 and row["min_s"] <= row["median_s"] <= row["max_s"]
            assert row["leading"] == row["k_timed"] or name != names[0]
        assert found[names[0]]["extrapolated_from"] is None and found[names[0]]["facts"]["passes"] >= 1
        assert (
            found["wrong"]["status"] == "wrong" and found["wrong"]["error"] > 0.01 and "median_s" not in found["wrong"]
        )
    assert "not greedy" in text
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_a_limit_extrapolates_sequential_providers_only(tmp_path: Path, run: Callable[..., str]) -> None:
    out = tmp_path / "limit.json"
    text = run(kcenter, "--case", "gaussian", "--n", 20_000, "--d", 16, "--k", 4000, "--repeat", 1,
                  "--limit-s", 0.02, "--check-picks", 100, "--providers", "patchcore_fast torch", "gemv loop",
                  "--json", out)  # fmt: skip
    loop, ours = rows(out)["gemv loop"], rows(out)["patchcore_fast torch"]
    assert loop["status"] == "ok" and loop["extrapolated_from"] == loop["k_timed"] < 4000
    assert ours["extrapolated_from"] is None and ours["k_timed"] == 4000
    assert f"gemv loop from {loop['k_timed']:,} picks" in text


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the device, gpu.sh measures them there")
@pytest.mark.parametrize("variant", ["ieee", "tf32"])
@pytest.mark.thorough
def test_triton_variants_in_the_interpreter(variant: str, tmp_path: Path, run: Callable[..., str]) -> None:
    out = tmp_path / "out.json"
    run(kcenter, "--case", "low-rank", "--n", 100, "--d", 8, "--k", 4, "--repeat", 1, "--limit-s", 1,
        "--providers", "torch", f"triton {variant}", "--json", out)  # fmt: skip
    for row in rows(out).values():
        assert row["status"] == "ok" and row["leading"] == 4, row
    judged = rows(out)[f"patchcore_fast triton {variant}"]["facts"].get("judged")
    assert judged == (None if variant == "ieee" else "covering radius")


@pytest.mark.skipif(native_refusal() is not None, reason=f"no native engine: {native_refusal()}")
def test_instruction_sets_are_held_and_compared_with_what_auto_takes(tmp_path: Path, run: Callable[..., str]) -> None:
    out = tmp_path / "kcenter.json"
    run(kcenter, "--case", "clustered", "--n", 1500, "--d", 16, "--k", 30, "--repeat", 1, "--isa", "all",
           "--providers", "patchcore_fast", "torch", "native-portable x1", "native-portable unpruned",
           "--json", out)  # fmt: skip
    found = rows(out)
    forced = {f"patchcore_fast native-{isa}" for isa in isas_here()}
    more = {"patchcore_fast native-portable x1", "patchcore_fast native-portable unpruned", "patchcore_fast torch"}
    assert found.keys() == forced | more | {"patchcore_fast"}
    for name, row in found.items():
        assert row["status"] == "ok" and row["leading"] == 30, row
        assert (row["family"] == "ours") == (name == "patchcore_fast")
    assert found["patchcore_fast"]["facts"]["backend"].startswith("native: ")
