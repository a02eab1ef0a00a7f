"""gpu.sh without a GPU: its parts' own commands on the CPU, summary, pages. No test looks at a time's value.

test_gpu_faults.py has what becomes of parts that fail, test_gpu_parts.py what the commands are.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ROOT
from benchmarks.gpu import run as gpu
from benchmarks.gpu import sanitize, together
from benchmarks.gpu.parts import CALLS
from benchmarks.gpu.summary import targets
from benchmarks.harness import records, sources
from benchmarks.pages import render

from ..cuda import emulated

FEW = ("build", "kcenter 10 %")  # ten seconds
RUNS = [pytest.param("A", FEW, id="few"),
        *(pytest.param(call, (), id=call, marks=pytest.mark.thorough) for call in CALLS)]  # fmt: skip


@pytest.mark.parametrize("call, only", RUNS)
def test_a_dry_run_gives_every_result(call: str, only: tuple[str, ...], tmp_path: Path) -> None:
    """The whole script. The CUDA kernels of the small case run on the emulator in the thorough one, those of Triton in
    its interpreter; all else on the torch leaves."""
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    if not only and not emulated.missing():
        environment[emulated.VARIABLE] = str(emulated.build())
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(out), "--dry-run", "--call", call]
    command += ["--only", *only] if only else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    parts = [p for p in CALLS[call] if not only or p.name in only]
    results = {p.into for p in parts if p.into} - {"pipeline"}  # which only says what it would run
    name = gpu.name_of(call)
    assert {p.name for p in out.iterdir()} == {f"{name}.json", f"{name}.log"} | {f"{r}.json" for r in results}
    whole = json.loads((out / f"{name}.json").read_text())
    assert whole["schema"] == 2 and whole["environment"]["kind"] == "cpu" and whole["environment"]["commit"]
    assert {"numpy"} <= whole["environment"]["versions"].keys() and whole["options"]["dry_run"]
    assert [p["name"] for p in whole["parts"]] == [p.name for p in parts]
    for part in whole["parts"]:
        assert part["status"] == ("not run" if part["name"] == "warmup" else "ok"), part
    assert all(t["met"] is None and t["measured"] == "not measured" for t in whole["targets"])
    for result_name in results:
        result = json.loads((out / f"{result_name}.json").read_text())
        assert {p["part"] for p in result["problems"]} == {p.name for p in parts if p.into == result_name}
        for problem in result["problems"]:
            assert problem["options"]["device"] == "cpu" and problem["case"] == "low-rank"
            done_rows = [r for r in problem["rows"] if r["status"] != "not run"]
            assert done_rows and all(r["status"] == "ok" for r in done_rows), done_rows
            assert all(r["error"] is not None and r["facts"]["first_call_s"] > 0 for r in done_rows)
    log = (out / f"{name}.log").read_text()
    if not only:
        on = {"A": "cuda" if emulator_is(environment) else "torch",
              "B": "triton" if importlib.util.find_spec("triton") else "torch"}  # fmt: skip
        assert call not in on or f"{on[call]} on cpu: all right" in log
    assert "==== " in log and "A DRY RUN on the CPU" in done.stdout and len(list(out.iterdir())) <= 8
    assert done.stdout.index("part  ") < done.stdout.index("target (H100")


def emulator_is(environment: dict[str, str]) -> bool:
    return emulated.VARIABLE in environment


@pytest.mark.thorough
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_no_device_is_said(tmp_path: Path, in_process: object, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="True"):
        gpu.main([str(tmp_path), "--only", "device"])
    text = capsys.readouterr().out
    assert "torch finds no CUDA device" in text and "no device" in text
    told = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [(part["name"], part["status"]) for part in told] == [("device", "failed")]


def test_it_wants_to_know_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "said", lambda command: "")  # as in a copy without git
    monkeypatch.delenv(sources.VARIABLE, raising=False)
    with pytest.raises(SystemExit, match="PATCHCORE_FAST_COMMIT is not set"):
        gpu.main([str(tmp_path / "out"), "--dry-run"])
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv(sources.VARIABLE, "abc1234")
    assert sources.commit() == "abc1234"


def test_commands_side_by_side(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each of the first two waits until the other has begun: one after the other they would fail."""
    wait = "touch {0}; for i in $(seq 500); do test -e {1} && break; sleep 0.02; done; test -e {1} && {2}"
    first, second = tmp_path / "first", tmp_path / "second"
    asked = [["/bin/sh", "-c", wait.format(first, second, "exit 3")],
             ["/bin/sh", "-c", wait.format(second, first, "echo here I am")], ["/nonexistent/program"]]  # fmt: skip
    with pytest.raises(SystemExit, match="True"):
        together.main([word for command in asked for word in ("+++", *command)])
    text = capfd.readouterr().out
    assert "here I am" in text and "status 3" in text and "cannot be started" in text and "1 of 3 well" in text
    for words in ([], ["+++"], ["ls"], ["+++", "ls", "+++"]):
        with pytest.raises(SystemExit, match="wanted"):
            together.main(words)


def made_up(seconds: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Results with these medians, of the sizes that the targets name."""

    def row(provider: str, family: str, k: int, **more: Any) -> dict[str, Any]:
        s = seconds[provider]
        said = {"provider": provider, "family": family, "k": k, "k_timed": k, "status": "ok", "message": ""}
        said |= {"error": 0.0, "leading": k, "extra_bytes": 1 << 20, "peak_bytes": 1 << 30}
        said |= {"facts": {"passes": 9, "first_call_s": 2.0}}
        return said | {"median_s": s, "min_s": s, "max_s": s, "runs": 3, "extrapolated_from": None} | more

    cuda = {"capability": "9.0", "processors": 132, "driver": "580.1", "runtime": "13.0", "triton": "3.6.0"}
    place = {"device": "NVIDIA H100", "kind": "cuda", "threads": 16, "python": "3.12.1", "torch": "2.11.0"}
    place |= {"cuda": cuda, "versions": {"numpy": "2.4.6"}, "commit": "abc1234", "date": "2026-11-22"}
    place |= {"memory_bytes": 80 << 30}
    asked = {"repeat": 3, "memory_gb": None}
    problems = []
    for k in (1638, 16_384):
        rows = [row("patchcore_fast", "ours", k), row("gemv loop", "loop", k),
                row("anomalib loop", "anomalib loop", k, extrapolated_from=100)]  # fmt: skip
        problems.append({"case": "low-rank", "about": "made up", "n": 163_840, "d": 128, "k": k, "rows": rows})
    rows = [row("patchcore_fast", "ours", 9), row("GEMM", "GEMM", 9, facts={"judged": "of |x| |y|"})]
    search = {"case": "low-rank", "about": "made up", "n": 163_840, "d": 128, "k": 9, "queries": 1638, "rows": rows}
    common = {"environment": place, "options": asked}
    return {"kcenter": {"benchmark": "kcenter", **common, "problems": problems},
            "knn": {"benchmark": "knn", **common, "problems": [search]}}  # fmt: skip


def test_targets() -> None:
    times = {"patchcore_fast": 0.004, "gemv loop": 0.05, "anomalib loop": 0.5, "GEMM": 0.002}
    told = {t["name"]: t for t in targets(made_up(times))}
    assert [t["met"] for t in told.values()] == [True, True, True, True, None, None, False]
    assert told["k-center, 1% of 163,840 x 128"]["measured"] == "4.00 ms"
    assert told["k-center, 10% of 163,840 x 128, against anomalib's loop"]["measured"] == "~125 x"
    assert "2.0 x" in [t["measured"] for t in told.values()] and {t["case"] for t in told.values()} == {"low-rank"}
    slower = targets(made_up({**times, "patchcore_fast": 0.03}))
    assert [t["met"] for t in slower] == [False] * 4 + [None] * 2 + [False]
    ours = made_up(times)
    ours["kcenter"]["problems"][1]["rows"][1]["provider"] = "patchcore_fast cuda"  # the loop's 50 ms
    told = {t["name"]: t for t in targets(ours)}
    assert told["k-center, 10% of 163,840 x 128, backend cuda"]["measured"] == "50.0 ms"
    assert told["k-center, 10% of 163,840 x 128, backend cuda"]["met"] is False
    wrong = made_up(times)
    for result in wrong.values():
        for problem in result["problems"]:
            problem["rows"][0] = {**problem["rows"][0], "status": "wrong"}
    assert all(t["met"] is None and t["measured"] == "not measured" for t in targets(wrong))


def test_what_was_not_judged_meets_no_target() -> None:
    """A run that was cut off: its time is shown, and nothing is claimed."""
    cut = made_up({"patchcore_fast": 0.004, "gemv loop": 0.05, "anomalib loop": 0.5, "GEMM": 0.002})
    cut["kcenter"]["problems"][0]["rows"][0]["status"] = "unjudged"
    told = {t["name"]: t for t in targets(cut)}
    assert told["k-center, 1% of 163,840 x 128"]["measured"] == "4.00 ms, not judged"
    assert told["k-center, 1% of 163,840 x 128"]["met"] is None
    assert told["k-center, 1% of 163,840 x 128, against anomalib's loop"]["met"] is None
    assert told["k-center, 10% of 163,840 x 128"]["met"] is True


def test_pages_show_a_gpu(tmp_path: Path, run: Any) -> None:
    folder = tmp_path / "results" / "h100"
    results = made_up({"patchcore_fast": 0.004, "gemv loop": 0.05, "anomalib loop": 0.5, "GEMM": 0.003})
    parts = [
        {"name": "tests", "status": "ok", "seconds": 3.0, "most": 60.0, "message": "9 passed", "code": 0, "into": ""}
    ]
    whole = {"benchmark": "gpu", "environment": results["knn"]["environment"], "options": {"memory_gb": None},
             "parts": parts, "targets": targets(results)}  # fmt: skip
    half = json.loads(json.dumps(results["kcenter"]))
    half["problems"][0]["about"] = "stored as float16"
    for name, result in {**results, "gpu": whole, "memory-8gb": half}.items():
        records.write(folder / f"{name}.json", result)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- benchmark:begin -->\n<!-- benchmark:end -->\n")
    run(render, "--results", tmp_path / "results", "--root", tmp_path)
    run(render, "--results", tmp_path / "results", "--root", tmp_path, "--check")
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "Capability 9.0, 132 processors, driver 580.1, CUDA 13.0, Triton 3.6.0." in page
    assert "| k-center, 1% of 163,840 x 128 (low-rank) | <= 5.00 ms | 4.00 ms | met |" in page
    assert "| tests | ok |" in page
    assert (tmp_path / "docs" / "benchmarks" / "h100-kcenter.png").exists() and "4.00 ms" in readme.read_text()


def test_the_small_case_says_what_is_wrong(run: Callable[..., str], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        sanitize.main(["--device", "cpu", "--backend", "nonsense", "--rows", "60", "--only", "k = 9"])
    text = capsys.readouterr().out
    assert "knn, k = 9, float16: FAILED: ValueError" in text and "2 WRONG" in text
    text = run(sanitize, "--device", "cpu", "--backend", "torch", "--rows", 60, "--only", "weights")
    assert text.count(": right, ") == 2 and "torch on cpu: all right" in text
