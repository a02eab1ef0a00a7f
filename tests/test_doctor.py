"""The doctor answers on sick machines too."""

from __future__ import annotations

import json
import subprocess
import sys
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
    assert text.count("PROBLEM") == 3 and "libcuda.so.1" in text and "Traceback" not in text


def test_no_backend_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchcore_fast.kernels, "explain_backends", lambda: [])
    assert doctor.collect()["problems"] == ["kernels: RuntimeError: no backend can run here"]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"package", "python", "cpu", "torch", "kernels", "native", "optional", "problems"} <= set(found)


CARDS = [("NVIDIA H100", (9, 0)), ("NVIDIA GeForce RTX 3070", (8, 6)), ("Tesla V100", (7, 0))]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with CUDA devices, and an empty cache folder."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(CARDS))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i=None: CARDS[_number(i)][0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=None: CARDS[_number(i)][1])
    properties = SimpleNamespace(major=9, minor=0, name="a card", total_memory=1 << 34)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: properties)
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(tmp_path))
    return tmp_path


def _number(device: object) -> int:
    return device.index or 0 if isinstance(device, torch.device) else int(device or 0)  # type: ignore[call-overload]


def test_triton_cards_are_shown_with_their_arithmetic(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    found = doctor.collect()
    assert [d["float32"] for d in found["triton"]["devices"]] == ["tf32x3", "ieee", "ieee"]
    assert [d["capability"] for d in found["triton"]["devices"]] == ["9.0", "8.6", "7.0"]
    assert found["triton"]["version"] and found["triton"]["cached"] is False
    text = doctor.render(found)
    assert "GPU 0     float32 is three TF32 products on tensor cores, within a proven bound" in text
    assert "GPU 1     float32 is float32 multiply-adds" in text
    assert "compute capability 7.0, 7.5 or later is wanted" in text
    assert str(cards / "triton.json") in text and "not there: tiles are those of the table" in text
    assert text.count("first calls not measured: patchcore-fast warmup") == 2
    assert not list(cards.iterdir())  # it looks, and writes nothing


def test_triton_first_calls_come_from_the_cache(cards: Path) -> None:
    pytest.importorskip("triton")
    place = f"NVIDIA H100|9.0|{doctor.version('triton')}|"
    other = "NVIDIA H100|9.0|1.0|knn, of another triton"
    calls = {
        place + "knn, k = 1": {"first": 3.25, "again": 0.0004},
        place + "odd": {"first": "x"},
        other: {"first": 9.0},
    }
    content = {"format": 1, "tiles": {place + "update|128|ieee": {}}, "first_calls": calls}
    (cards / "triton.json").write_text(json.dumps(content))
    found = doctor.collect()
    assert found["problems"] == [] or all("Triton" not in p for p in found["problems"])
    assert found["triton"]["devices"][0]["tiles_tuned"] == 1 and found["triton"]["devices"][1]["tiles_tuned"] == 0
    text = doctor.render(found)
    assert "first call 3.25 s, then 0.40 ms: knn, k = 1" in text and "another triton" not in text
    assert "1 tiles measured here" in text
    (cards / "triton.json").write_text("{")
    assert doctor.collect()["triton"]["devices"][0]["first_calls"] == {}


def test_triton_missing_is_a_reason_and_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from patchcore_fast.kernels.backends import triton_backend

    monkeypatch.setattr(triton_backend.importlib.util, "find_spec", lambda name: None)
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: None if "triton" in name else real(name))
    found = doctor.collect()
    assert found["problems"] == [] and found["triton"]["version"] is None
    text = doctor.render(found)
    assert "triton    not installed" in text and "not here  triton is not installed" in text


def test_doctor_does_not_import_triton() -> None:
    code = "import sys; from patchcore_fast import doctor; doctor.collect(); print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
