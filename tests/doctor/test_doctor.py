"""The doctor answers on sick machines too."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

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
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
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


def keys(found: object, path: str = "") -> set[str]:
    """Every key of nested findings, lists looked into: "cuda.devices.index"."""
    if isinstance(found, list):
        return set().union(*(keys(value, path) for value in found))
    if not isinstance(found, dict):
        return set()
    return set().union(*({f"{path}{k}"} | keys(value, f"{path}{k}.") for k, value in found.items()))


def documented() -> dict[str, set[str]]:
    """The words in backticks of each line of the page's table, by key."""
    page = (Path(__file__).parents[2] / "docs" / "lab-machines.md").read_text()
    table = page.split("| key | what it is |")[1].split("\n\n")[0]
    lines = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    return {key.strip(" `"): set(re.findall(r"`([^`]+)`", text)) for _, key, text, _ in lines}


OPEN = ("environment", "optional", "triton.devices.first_calls")  # whose keys are names, not words of ours


def test_json_is_what_the_page_says(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "_load", lambda: cuda_module([86]))
    found = doctor.collect()
    table = documented()
    assert set(found) == set(table) and found["format"] == doctor.FORMAT == 1
    for key in sorted(keys(found)):
        top, _, rest = key.partition(".")
        if rest and not key.startswith(tuple(f"{name}." for name in OPEN)):
            assert rest.rpartition(".")[2] in table[top], f"{key} is not on the page"
    assert {"version", "install", "use"} == table["optional"]
    assert set(doctor.VARIABLES) < table["environment"]


def test_json_has_our_variables_and_nobodys_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = tmp_path / "somebody"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATCHCORE_FAST_CACHE", str(home / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MY_TOKEN", "secret")

    def refuse() -> object:
        raise OSError(f"{home}/lib.so and {home}body/lib.so: no")

    monkeypatch.setattr(patchcore_fast.kernels, "explain_backends", refuse)
    assert main(["doctor", "--json"]) == 1
    text = capsys.readouterr().out
    found = json.loads(text)
    ours = {name: value for name, value in os.environ.items() if name.startswith("PATCHCORE_FAST_")}
    shown = {name: value for name, value in found["environment"].items() if name.startswith("PATCHCORE_FAST_")}
    assert set(shown) == set(ours) and shown["PATCHCORE_FAST_CACHE"] == "~/cache"
    assert found["environment"]["OMP_NUM_THREADS"] == "3" and "secret" not in text
    assert found["triton"]["cache_file"] == "~/cache/triton.json"
    assert found["problems"] == [f"kernels: OSError: ~/lib.so and {home}body/lib.so: no"]  # another's home is no home


def cuda_module(archs: list[int], driver: int = 12040, reason: str = "") -> ModuleType:
    """A native module with CUDA kernels on a machine with cards of these capabilities."""

    def device_info(i: int) -> dict[str, object]:
        if i >= len(archs):
            why = reason or f"no CUDA device {i}, there are {len(archs)}"
            return {"arch": 0, "code": 0, "multiprocessors": 0, "driver": driver, "runnable": False, "reason": why,
                    "lasting": True}  # fmt: skip
        old = archs[i] < 75
        return {"arch": archs[i], "code": archs[i], "lasting": True, "multiprocessors": 40 + i, "driver": driver,
                "runnable": not old,
                "reason": "nothing compiled here runs on compute capability 7.0: no image" if old else ""}  # fmt: skip

    info = {"archs": [75, 80, 120], "ptx": 120, "runtime": 12080, "emulated": False}
    module = ModuleType("_native")
    cuda = SimpleNamespace(info=lambda: info, device_info=device_info, kcenter_layout=dict)
    module.__dict__.update(isa=lambda: "avx2", explain_isa=lambda: [("avx2", "")], cuda=cuda, cuda_refusal=str)
    return module


def test_cuda_kernels_and_cards_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "_load", lambda: cuda_module([86, 70, 120]))
    found = doctor.collect()
    cuda = found["cuda"]
    assert cuda["built"] and cuda["reason"] is None and cuda["architectures"] == ["7.5", "8.0", "12.0"]
    assert (cuda["ptx"], cuda["runtime"], cuda["driver"]) == ("12.0", "12.8", "12.4")
    runnable = [(d["capability"], d["runnable"]) for d in cuda["devices"]]
    assert runnable == [("8.6", True), ("7.0", False), ("12.0", True)]
    assert [d["reason"] is None for d in cuda["devices"]] == [True, False, True]
    text = doctor.render(found)
    assert "built     for 7.5, 8.0, 12.0 and PTX of 12.0; CUDA 12.8 inside, the driver knows 12.4" in text
    assert "GPU 0     8.6, 40 multiprocessors: runs" in text
    assert "GPU 1     7.0, 41 multiprocessors: not here  nothing compiled here runs" in text


@pytest.mark.parametrize(("driver", "reason"), [(0, "no NVIDIA driver on this machine"), (11040, "driver too old")])
def test_cuda_kernels_without_a_driver_that_serves(monkeypatch: pytest.MonkeyPatch, driver: int, reason: str) -> None:
    monkeypatch.setattr(native_library, "_load", lambda: cuda_module([], driver, reason))
    found = doctor.collect()
    assert found["cuda"]["built"] and found["cuda"]["devices"] == [] and found["cuda"]["reason"] == reason
    assert found["cuda"]["driver"] == ("11.4" if driver else None) and found["problems"] == []
    text = doctor.render(found)
    assert f"not here  {reason}" in text and ("the driver knows 11.4" if driver else "no driver") in text


def test_a_build_without_cuda_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(isa=lambda: "avx2", explain_isa=list, cuda_refusal=lambda: "built without CUDA: no nvcc")
    monkeypatch.setattr(native_library, "_load", lambda: module)
    found = doctor.collect()
    assert found["cuda"]["built"] is False and found["cuda"]["reason"] == "built without CUDA: no nvcc"
    assert "CUDA kernels\n  not here  built without CUDA: no nvcc" in doctor.render(found)
    monkeypatch.setattr(native_library, "_load", lambda: "built for another Python")
    assert doctor.collect()["cuda"]["reason"] == "built for another Python"


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
    calls = {place + "knn, k = 1": {"first": 3.25, "again": 0.0004}}
    calls |= {place + "odd": {"first": "x"}, other: {"first": 9.0}}
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

    monkeypatch.setattr(triton_backend, "_missing", lambda: "triton is not installed")
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: None if "triton" in name else real(name))
    found = doctor.collect()
    assert found["problems"] == [] and found["triton"]["version"] is None
    text = doctor.render(found)
    assert "triton    not installed" in text and "not here  triton is not installed" in text


def test_the_verdicts_on_tensor_cores_are_shown(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchcore_fast.kernels.backends.cuda_kernels import library

    wrong = "the tensor cores do not add up as its bound needs: no"
    refused = {torch.float16: None, torch.bfloat16: wrong}
    monkeypatch.setattr(native_library, "_load", lambda: cuda_module([90]))
    monkeypatch.setattr(library, "tensor_core_refusal", lambda device: None)
    monkeypatch.setattr(library, "half_refusal", lambda device, dtype: refused[dtype])
    for probe in (library.TENSOR_CORES, *library.HALF_CORES.values()):
        monkeypatch.setattr(probe, "known", lambda device: (True, None))
    found = doctor.collect()
    halves = {"float16": {"asked": True, "reason": None}, "bfloat16": {"asked": True, "reason": wrong}}
    assert found["cuda"]["devices"][0]["tensor_cores"] == {"asked": True, "reason": None, "halves": halves}
    text = doctor.render(found)
    assert "tensor cores add up as tf32x3 needs" in text and "add up as half needs: float16\n" in text
    assert f"half for bfloat16 rows is not taken: {wrong}" in text
