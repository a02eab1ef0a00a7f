"""The doctor answers on sick machines too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import patchcore_fast.kernels
from patchcore_fast import doctor
from patchcore_fast.cli import main
from patchcore_fast.kernels.backends import native_library


def test_healthy() -> None:
    found = doctor.collect()
    assert found["problems"] == []
    assert found["torch"]["version"] == torch.__version__ and found["torch"]["threads"] == torch.get_num_threads()
    assert any(k["available"] and k["device"] == "cpu" for k in found["kernels"])
    text = doctor.render(found)
    for part in ("No problems found", torch.__version__, "torch", "cpu", "timm"):
        assert part in text


def test_every_unavailable_backend_says_why() -> None:
    for backend in doctor.collect()["kernels"]:
        assert backend["reason"] and backend["reason"] in doctor.render(doctor.collect())


def test_missing_package_gets_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "timm" else real(name))
    line = next(t for t in doctor.render(doctor.collect()).splitlines() if t.strip().startswith("timm"))
    assert 'pip install "patchcore_fast[pipeline]"' in line


def test_native_engine_is_shown() -> None:
    found = doctor.collect()
    engine, text = found["native"], doctor.render(found)
    if not engine["loaded"]:
        assert f"not here  {engine['reason']}" in text
        return
    states = {line.split()[0]: line for line in text.split("Native CPU engine\n")[1].split("\n\n")[0].splitlines()}
    assert list(states) == [s["name"] for s in engine["instruction_sets"]]
    assert "in use" in states[engine["instruction_set"]]
    for s in engine["instruction_sets"]:
        assert s["available"] == (s["reason"] is None) and (s["reason"] or "") in states[s["name"]]


def test_no_native_engine_is_a_reason_and_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "_load", lambda: "built for another Python")
    found = doctor.collect()
    assert found["native"]["loaded"] is False and found["problems"] == []
    assert "not here  built for another Python" in doctor.render(found)


def test_refused_instruction_set_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def isa() -> str:
        raise RuntimeError("PATCHCORE_FAST_ISA=amx: the CPU has no AMX")

    monkeypatch.setattr(native_library, "_load", lambda: SimpleNamespace(isa=isa))
    problem = "native CPU engine: RuntimeError: PATCHCORE_FAST_ISA=amx: the CPU has no AMX"
    found = doctor.collect()
    assert problem in found["problems"] and f"PROBLEM  {problem}" in doctor.render(found)


def test_extras_are_those_of_the_metadata() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    declared = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    for extra, _ in doctor.OPTIONAL.values():
        assert f"\n{extra} = [" in declared


def broken() -> object:
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_a_broken_part_is_a_problem_and_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", broken)
    monkeypatch.setattr(patchcore_fast.kernels, "explain_backends", broken)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert text.count("PROBLEM") == 2 and "libcuda.so.1" in text and "Traceback" not in text


def test_no_backend_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchcore_fast.kernels, "explain_backends", lambda: [])
    assert doctor.collect()["problems"] == ["kernels: RuntimeError: no backend can run here"]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"package", "python", "cpu", "torch", "kernels", "native", "optional", "problems"} <= set(found)
