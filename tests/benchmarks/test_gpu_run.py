"""gpu/run.py without a GPU: its dry run, limits, summary, pages. No test looks at a time's value."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ROOT
from benchmarks.gpu import run as gpu
from benchmarks.gpu import sanitize
from benchmarks.gpu.summary import targets
from benchmarks.harness import options, records
from benchmarks.pages import render

FEW = ("build", "warmup", "memcheck, cuda", "knn", "tests", "8 GB, float16")
HANGS = """
import json, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({pid!r}, "w").write(str(child.pid))
json.dump({result!r}, open(sys.argv[sys.argv.index("--json") + 1], "w"))
time.sleep(600)
"""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked for the device, and ends come soon."""
    monkeypatch.setattr(gpu, "GRACE_S", 0.5)
    monkeypatch.setattr(gpu.Run, "describe", lambda self: True)


@pytest.fixture(scope="module", params=[FEW, pytest.param((), marks=pytest.mark.thorough)], ids=["few", "all"])
def dry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[gpu.Part]]:
    """The folder of a dry run, what it printed, its parts: one of each kind, or all."""
    out = tmp_path_factory.mktemp("gpu") / "out"
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(out), "--dry-run"]
    command += ["--only", *request.param] if request.param else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return out, done.stdout, [p for p in gpu.PARTS if not request.param or p.name in request.param]


def test_dry_run_gives_every_result(dry: tuple[Path, str, list[gpu.Part]]) -> None:
    out, text, parts = dry
    results = {p.into for p in parts if p.into} - {"pipeline"}  # which only says what it would run
    assert {p.name for p in out.iterdir()} == {"gpu.json", "gpu.log"} | {f"{name}.json" for name in results}
    whole = json.loads((out / "gpu.json").read_text())
    assert whole["schema"] == 2 and whole["environment"]["kind"] == "cpu" and whole["environment"]["commit"]
    assert {"triton", "numpy"} <= whole["environment"]["versions"].keys() and whole["options"]["dry_run"]
    assert [p["name"] for p in whole["parts"]] == ["device", *(p.name for p in parts)]
    for part in whole["parts"]:
        assert part["status"] == ("not run" if part["name"] == "warmup" else "ok"), part
    assert all(t["met"] is None and t["measured"] == "not measured" for t in whole["targets"])
    for name in results:
        result = json.loads((out / f"{name}.json").read_text())
        assert result["environment"]["kind"] == "cpu" and result["problems"]
        assert {p["part"] for p in result["problems"]} == {p.name for p in parts if p.into == name}
        for problem in result["problems"]:
            assert problem["options"]["device"] == "cpu" and problem["case"] == "low-rank"
            done = [r for r in problem["rows"] if r["status"] != "not run"]
            assert done and all(r["status"] == "ok" for r in done), done
            assert all(r["error"] is not None and r["facts"]["first_call_s"] > 0 for r in done)
    half = [p for p in json.loads((out / "memory-8gb.json").read_text())["problems"] if "float16" in p["about"]]
    assert len(half) == 1 and half[0]["part"] == "8 GB, float16"
    log = (out / "gpu.log").read_text()
    assert "==== knn: " in log and "all right" in log and len(list(out.iterdir())) <= 8
    assert "A DRY RUN on the CPU" in text and text.index("nearest of") < text.index("part  ") < text.index(
        "target (H100"
    )


def test_what_hangs_is_ended_and_the_next_part_runs(short: None, tmp_path: Path, capsys: Any) -> None:
    row = {"provider": "patchcore_fast", "family": "ours", "k": 5, "status": "failed", "message": "", "k_timed": 0}
    row |= {"error": None, "leading": None, "extra_bytes": 0, "peak_bytes": 0, "facts": {}}
    problem = {"case": "made", "about": "up", "n": 9, "d": 2, "k": 5, "rows": [row]}
    result = {"benchmark": "kcenter", "environment": {}, "schema": 2}
    result |= {"options": {"memory_gb": None}, "problems": [problem]}
    pid = tmp_path / "pid"
    hangs = HANGS.format(pid=str(pid), result=result)
    parts = [
        gpu.Part("hangs", 4.0, ("{python}", "-c", hangs), into="kcenter"),
        gpu.Part("after", 60.0, ("{python}", "-c", "print('here I am')")),
        gpu.Part("absent", 60.0, ("{sanitizer}x",), skip=lambda: "compute-sanitizer not here"),
        gpu.Part("fails", 60.0, ("{python}", "-c", "raise SystemExit('no luck')")),
        gpu.Part("nowhere", 60.0, ("/nonexistent/program",)),
    ]
    assert not gpu.run(parts, tmp_path / "out", "cpu", total_s=300)
    told = {p["name"]: p for p in json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]}
    assert told["hangs"]["status"] == "ended" and 4 <= told["hangs"]["seconds"] < 20
    assert json.loads((tmp_path / "out" / "kcenter.json").read_text())["problems"][0]["part"] == "hangs"
    assert told["after"] | {"seconds": 0} == {"name": "after", "status": "ok", "seconds": 0, "most": 60.0, "code": 0,
                                              "message": "here I am", "into": ""}  # fmt: skip
    assert (told["absent"]["status"], told["absent"]["message"]) == ("not run", "compute-sanitizer not here")
    assert told["fails"]["status"] == "failed" and "no luck" in told["fails"]["message"]
    assert told["nowhere"]["status"] == "failed" and "cannot be started" in told["nowhere"]["message"]
    with pytest.raises(ProcessLookupError):  # what a part started ends with it
        _alive(int(pid.read_text()))
    assert "took longer than it may" in capsys.readouterr().out


def _alive(pid: int) -> None:
    """Raises ProcessLookupError once it has ended; one that nobody has waited for yet has ended too."""
    for _ in range(50):
        os.kill(pid, 0)
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            raise ProcessLookupError
        time.sleep(0.1)


def test_the_whole_has_a_limit(short: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_LEAST_S", 0.5)
    slow = [gpu.Part(name, 60.0, ("{python}", "-c", "import time; time.sleep(60)")) for name in "ab"]
    begin = time.monotonic()
    assert not gpu.run(slow, tmp_path, "cpu", total_s=3)
    assert time.monotonic() - begin < 20
    told = {p["name"]: (p["status"], p["message"]) for p in json.loads((tmp_path / "gpu.json").read_text())["parts"]}
    assert told["a"][0] == "ended" and told["b"] == ("not run", "no time was left")


def test_a_signal_ends_it_with_a_summary(tmp_path: Path) -> None:
    code = (
        "import signal, pathlib; from benchmarks.gpu import run as gpu; gpu.Run.describe = lambda self: True;"
        "signal.signal(signal.SIGTERM, gpu._terminated);"
        "parts = [gpu.Part('slow', 500.0, ('{python}', '-c', 'import time; time.sleep(500)'))];"
        f"gpu.run(parts, pathlib.Path({str(tmp_path)!r}), 'cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        for line in process.stdout:
            if line.startswith("== slow"):
                break
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 143 and "target (H100" in rest and (tmp_path / "gpu.json").exists()


def test_every_command_names_what_there_is(in_process: object) -> None:
    for part in gpu.PARTS:
        command = list(part.command)
        assert part.most <= 150 and "{python}" in command, part
        script = next((word for word in command if word.startswith("benchmarks.")), "benchmarks")
        assert importlib.util.find_spec(script) and command[command.index("{python}") + 1] in ("-m", "-c")
        name = script.rpartition(".")[2]
        if name in ("kcenter", "knn", "rarity"):
            rest = command[command.index(script) + 1 :]
            args, unknown = options.parser(name, "").parse_known_args(rest)
            args.device = "cpu"
            options.finish(args, {})
            own = {"--ratio", "--k", "--check-picks", "--dtype"}  # of kcenter.py alone
            assert "patchcore_fast" in options.chosen(args, name)
            assert {word for word in unknown if word.startswith("--")} <= own, unknown
            assert part.into and args.answer_s == 40
    wanted = {"patchcore_fast triton ieee", "patchcore_fast triton tf32x3", "patchcore_fast triton bf16", "gemv loop"}
    main = next(p for p in gpu.PARTS if p.name == "kcenter")
    args, _ = options.parser("kcenter", "").parse_known_args(main.command[5:])
    args.device = "cpu"
    options.finish(args, {})
    wanted |= {"patchcore_fast triton", "patchcore_fast cuda", "patchcore_fast cuda ieee", "patchcore_fast cuda graph"}
    assert wanted | {"anomalib loop", "amazon", "patchcore_fast triton graph"} <= set(options.chosen(args, "kcenter"))
    search = next(p for p in gpu.PARTS if p.name == "knn")
    args, _ = options.parser("knn", "").parse_known_args(search.command[5:])
    args.device = "cpu"
    options.finish(args, {})
    assert {"patchcore_fast triton", "patchcore_fast cuda"} <= set(options.chosen(args, "knn"))  # choose_backend.py


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_no_device_is_said(tmp_path: Path, in_process: object, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="True"):
        gpu.main([str(tmp_path)])
    text = capsys.readouterr().out
    assert "torch finds no CUDA device" in text and "no device" in text
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"][0]["status"] == "failed"


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


def test_pages_show_a_gpu(dry: tuple[Path, str, list[gpu.Part]], tmp_path: Path, run: Any) -> None:
    folder = tmp_path / "results" / "h100"
    results = made_up({"patchcore_fast": 0.004, "gemv loop": 0.05, "anomalib loop": 0.5, "GEMM": 0.003})
    whole = json.loads((dry[0] / "gpu.json").read_text())
    whole |= {"environment": results["knn"]["environment"], "targets": targets(results)}
    shutil.copytree(dry[0], folder)
    for name, result in {**results, "gpu": whole}.items():
        records.write(folder / f"{name}.json", result)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- benchmark:begin -->\n<!-- benchmark:end -->\n")
    run(render, "--results", tmp_path / "results", "--root", tmp_path)
    run(render, "--results", tmp_path / "results", "--root", tmp_path, "--check")
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "Capability 9.0, 132 processors, driver 580.1, CUDA 13.0, Triton 3.6.0." in page
    assert "| k-center, 1% of 163,840 x 128 (low-rank) | <= 5.00 ms | 4.00 ms | met |" in page
    assert "| tests | ok |" in page and "### memory-8gb" in page and "stored as float16" in page
    assert (tmp_path / "docs" / "benchmarks" / "h100-kcenter.png").exists() and "4.00 ms" in readme.read_text()


def test_the_small_case_says_what_is_wrong(run: Callable[..., str], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        sanitize.main(["--device", "cpu", "--backend", "nonsense", "--rows", "60", "--only", "k = 9"])
    text = capsys.readouterr().out
    assert "knn, k = 9, float16: FAILED: ValueError" in text and "2 WRONG" in text
    text = run(sanitize, "--device", "cpu", "--backend", "torch", "--rows", 60, "--only", "weights")
    assert text.count(": right, ") == 2 and "torch on cpu: all right" in text
