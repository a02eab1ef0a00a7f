"""gpu/run.py's rehearsal: every part of every call crashes, hangs, is killed while it writes, writes nonsense, in turn.

Stubs take the parts' places, a few milliseconds each. What must hold: a summary that can be read, all that was measured
before the fault, and the next parts run. The parts' own commands run in test_gpu_run.py, on the CPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import ROOT
from benchmarks.gpu import runner
from benchmarks.gpu.parts import CALLS, Part
from benchmarks.harness import records
from benchmarks.pages import render

ROW = {"family": "ours", "status": "ok", "message": "", "error": 0.0, "leading": 5, "k_timed": 5, "extra_bytes": 0,
       "peak_bytes": 0, "facts": {}, "median_s": 0.004, "min_s": 0.004, "max_s": 0.004, "runs": 3,
       "extrapolated_from": None}  # fmt: skip
# $1 is --json, $2 the file; environment $GOOD holds a result, $HALF its first half. No outcome depends on how fast the
# machine is: the runner's clock stands still until a stub adds to $CLOCK, and a stub that spoils its result waits until
# the runner has taken the good one over.
TAKEN = 'n=0; until [ -e "$2.taken" ] || [ $((n += 1)) -gt 6000 ]; do sleep 0.01; done'
WRITTEN = 'cp "$GOOD" "$2.new"; mv "$2.new" "$2"'
WELL = f"{WRITTEN}; echo well"
FAULTS = {
    "crash": f"{WRITTEN}; kill -SEGV $$",
    "crash before": "exit 3",
    "hang": f'{WRITTEN}; echo 60 >> "$CLOCK"; exec sleep 300',
    "hang at a signal": f'trap "" INT; {WRITTEN}; echo 60 >> "$CLOCK"; sleep 300',
    "killed while writing": f'{WRITTEN}; {TAKEN}; cp "$HALF" "$2"; kill -KILL $$',
    "nonsense": f'{WRITTEN}; {TAKEN}; echo "{{\\"schema\\": 2, \\"problems\\": [1]}}" > "$2"',
    "binary": f'{WRITTEN}; {TAKEN}; head -c 3000 /dev/urandom > "$2"; head -c 3000 /dev/urandom',
    "too much": f'{WRITTEN}; {TAKEN}; head -c 1100000 /dev/zero > "$2"; head -c 900000 /dev/zero',
}
ASKED = ("crash", "hang", "killed while writing", "nonsense")  # the others usually in one call only
PLACE = {"device": "a card", "kind": "cuda", "commit": "abc1234", "date": "2026-11-29", "threads": 1, "python": "3",
         "torch": "2", "versions": {}}  # fmt: skip


def result(benchmark: str) -> dict[str, Any]:
    """As a script writes it; of the size that the targets name."""
    rows = [{**ROW, "provider": "patchcore_fast", "k": 1638}]
    problem = {"case": "made", "about": "up", "n": 163_840, "d": 128, "k": 1638, "rows": rows}
    asked = {"repeat": 3, "memory_gb": None}
    return {"schema": 2, "benchmark": benchmark, "environment": PLACE, "options": asked, "problems": [problem]}


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """stubs(part, script, most): the part, with a stub in place of its command."""
    (tmp_path / "good.json").write_text(json.dumps(result("kcenter")))
    (tmp_path / "half.json").write_text(json.dumps(result("kcenter"))[:500])
    monkeypatch.setenv("GOOD", str(tmp_path / "good.json"))
    monkeypatch.setenv("HALF", str(tmp_path / "half.json"))
    monkeypatch.setenv("CLOCK", str(clock := tmp_path / "clock"))
    clock.touch()
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: sum(map(float, clock.read_text().split()))))
    collect = runner.Run._collect

    def tell(run: runner.Run, part: Part, file: Path | None) -> str:
        wrong = collect(run, part, file)
        if file is not None and file.exists() and not wrong:
            Path(f"{file}.taken").touch()
        return wrong

    monkeypatch.setattr(runner.Run, "_collect", tell)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(runner, "_POLL_S", 0.01)

    def stub(part: Part, script: str, most: float = 30.0) -> Part:
        if part.describes and script == WELL:
            script = f"echo '{json.dumps(PLACE)}'"
        if not part.into:
            script = script.replace(TAKEN, ":")
            script = script.replace("$2", str(tmp_path / "elsewhere"))
        command = ("/bin/sh", "-c", script, "stub")
        return replace(part, command=command, instead=(), tiny=(), skip=lambda: None, most=most, environment={})

    return stub


CELLS = [pytest.param(call, fault, id=f"{call}-{fault}",
                      marks=[pytest.mark.thorough] * (call != "A" and fault not in ASKED))
         for call in CALLS for fault in FAULTS]  # fmt: skip


@pytest.mark.parametrize("call, fault", CELLS)
def test_every_part_fails_in_turn(
    call: str, fault: str, stubs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every second part has the fault, then the others: each has it once, between parts that are well."""
    for first in (0, 1):
        out = tmp_path / f"out{first}"
        parts = []
        for i, part in enumerate(CALLS[call]):
            bad = i % 2 == first
            parts.append(stubs(part, FAULTS[fault] if bad else WELL))
        assert not runner.run(parts, out, "cuda", 3000.0)
        whole = json.loads((out / "gpu.json").read_text())
        assert [told["name"] for told in whole["parts"]] == [part.name for part in parts]
        for i, told in enumerate(whole["parts"]):
            expected = "ok" if i % 2 != first else "ended" if "hang" in fault else "failed"
            if fault in ("nonsense", "binary", "too much") and not told["into"]:
                expected = "failed" if CALLS[call][i].describes and i % 2 == first else "ok"  # it wrote no result
            assert told["status"] == expected, told
            assert expected == "ok" or told["message"]
        # Whatever a part wrote before its fault is there, and all that the others wrote.
        for name in {part.into for part in parts if part.into}:
            wrote = {
                p.name for i, p in enumerate(parts) if p.into == name and (i % 2 != first or fault != "crash before")
            }
            if not wrote:
                assert not (out / f"{name}.json").exists()
                continue
            found = records.read(out / f"{name}.json")
            assert {problem["part"] for problem in found["problems"]} == wrote
            assert all(problem["rows"][0]["median_s"] == 0.004 for problem in found["problems"])
        assert whole["environment"]["device"] == "a card"  # from "device" or from a part after it
        headline = next(t for t in whole["targets"] if t["name"] == "k-center, 1% of 163,840 x 128")
        assert headline["measured"] == "4.00 ms" and headline["met"] is True
        files = list(out.iterdir())
        assert len(files) <= 8 and sum(file.stat().st_size for file in files) < 16 << 20
        assert render.load(tmp_path)  # pages can be made of it
    assert capsys.readouterr().out.count("target (H100") == 2


def test_a_slow_machine_gets_as_far_as_it_gets(stubs: Any, tmp_path: Path) -> None:
    """The total is at its end before the parts are: those at the front are there, the others say why not."""
    timed = [part for part in CALLS["A"] if not part.describes]
    parts = [stubs(part, f'echo 10 >> "$CLOCK"; {WELL}' if i < 2 else FAULTS["hang"]) for i, part in enumerate(timed)]
    assert not runner.run(parts, tmp_path / "short", "cuda", 40.0)
    told = json.loads((tmp_path / "short" / "gpu.json").read_text())["parts"]
    assert [part["status"] for part in told] == ["ok", "ok", "ended", *["not run"] * (len(parts) - 3)]
    assert len(parts) > 3 and told[-1]["message"] == "no time was left"


def test_what_is_left_over_goes_to_the_next(stubs: Any, tmp_path: Path) -> None:
    """A part may take twice its time where those before it were quick, and not more; the sum is kept."""
    quick, slow = CALLS["A"][0], CALLS["A"][3]
    for seconds, well in ((45, True), (65, False)):
        script = f'echo {seconds} >> "$CLOCK"; {WELL if well else "exec sleep 300"}'
        parts = [stubs(quick, WELL, 30.0), stubs(slow, script, 30.0)]
        assert runner.run(parts, tmp_path / str(seconds), "cuda", 300.0) == well


def test_a_second_run_keeps_what_the_first_measured(stubs: Any, tmp_path: Path) -> None:
    """Of the same commit on the same device; results of others are not mixed with it."""
    one, ten = (stubs(part, WELL) for part in CALLS["A"] if part.into == "kcenter")
    assert runner.run([one], tmp_path / "out", "cuda", 30.0)
    assert runner.run([ten], tmp_path / "out", "cuda", 30.0)
    found = records.read(tmp_path / "out" / "kcenter.json")
    assert [problem["part"] for problem in found["problems"]] == [one.name, ten.name]
    assert (tmp_path / "out" / "gpu.log").read_text().count("==== kcenter") == 2
    records.write(tmp_path / "out" / "kcenter.json", {**found, "environment": {**PLACE, "commit": "another"}})
    assert runner.run([ten], tmp_path / "out", "cuda", 30.0)
    assert [p["part"] for p in records.read(tmp_path / "out" / "kcenter.json")["problems"]] == [ten.name]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_end_of_the_whole_loses_nothing(name: str, stubs: Any, tmp_path: Path) -> None:
    """A signal while a part runs: the part is told of, with what it had written, and the one before."""
    code = (
        "import pathlib, signal\n"
        "from benchmarks.gpu import run, runner\nfrom benchmarks.gpu.parts import Part\n"
        "signal.signal(signal.SIGTERM, run._terminated); signal.signal(signal.SIGINT, run._terminated)\n"
        f"parts = [Part(name, 500.0, ('/bin/sh', '-c', script, 'stub'), into=name) for name, script in "
        f"(('first', {WELL!r}), ('slow', {FAULTS['hang at a signal']!r}))]\n"
        f"runner.run(parts, pathlib.Path({str(tmp_path / 'out')!r}), 'cpu', 900.0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    try:
        for _ in range(1000):
            if (tmp_path / "out" / "slow.json").exists():
                break
            time.sleep(0.02)
        process.send_signal(getattr(signal, name))
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 143 and "target (H100" in rest
    told = {p["name"]: p for p in json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]}
    assert told["first"]["status"] == "ok" and told["slow"]["status"] == "cut"
    assert "the whole run was ended" in told["slow"]["message"]
    for part in told:
        assert records.read(tmp_path / "out" / f"{part}.json")["problems"][0]["part"] == part
