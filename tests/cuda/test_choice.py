"""Which GPU kernels `auto` takes, what that rests on, and what is said of it."""

import dataclasses
import json
import logging

import pytest
import torch

from patchcore_fast.kernels import backends
from patchcore_fast.kernels.backends import BACKENDS, choice, choose_backend, cuda_backend, explain_backends

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
ENTRY = {"kcenter": "cuda", "knn": "triton", "device": "Card 9", "date": "2027-01-02", "commit": "0123456789abc"}


@pytest.fixture
def card(monkeypatch):
    """Pretend that there is a card of capability 9.0 on which these backends run, the CUDA kernels from code for
    `code`, and that `measured` is recorded."""

    def pretend(able=("triton", "cuda", "torch"), measured=None, code=90):
        def made(b):
            runs = b.name in able
            refuse = lambda device: None if runs and device.type == "cuda" else "pretended"  # noqa: E731
            return dataclasses.replace(b, refuse=refuse, automatic=lambda device: True, remark=lambda device: "")

        monkeypatch.setattr(cuda_backend.library, "device_info", lambda number: {"arch": 90, "code": code})

        pretended = tuple(made(b) if b.name != "native" else b for b in BACKENDS)
        monkeypatch.setattr(backends, "BACKENDS", pretended)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(choice, "measured", lambda: measured or {})

    return pretend


def taken(device=CUDA):
    return tuple(choose_backend("test", "auto", device, part).name for part in choice.CALLS)


@pytest.mark.parametrize(
    "able, measured, expected, why",
    [
        (("triton", "cuda", "torch"), {}, ("cuda", "cuda"), "made for such cards, of capability 9.0; no measurement"),
        (("triton", "cuda", "torch"), {"8.6": ENTRY}, ("cuda", "cuda"), "made for such cards, of capability 9.0; no m"),
        (("triton", "cuda", "torch"), {"9.0": ENTRY}, ("cuda", "triton"), "faster on Card 9, 2027-01-02, commit 01234"),
        (("cuda", "torch"), {}, ("cuda", "cuda"), "triton does not run here"),
        (("triton", "torch"), {"9.0": ENTRY}, ("triton", "triton"), "cuda does not run here"),
        (("torch",), {"9.0": ENTRY}, ("torch", "torch"), "neither Triton nor CUDA kernels run here"),
    ],
)
def test_auto(able, measured, expected, why, card, caplog):
    card(able, measured)
    with caplog.at_level(logging.DEBUG, "patchcore_fast.kernels"):
        assert taken() == expected
    assert why in caplog.text
    said = {s.backend: s.reason for s in explain_backends() if s.device == "cuda"}
    assert why in said[expected[0]]
    for part, name in zip(choice.CALLS, expected, strict=True):
        for backend, reason in said.items():
            claims = reason.split("auto takes it for ")[1].split(": ")[0] if "auto takes it" in reason else ""
            assert (choice.CALLS[part] in claims.split(" and ")) == (backend == name), said


@pytest.mark.parametrize("code, expected", [(90, "cuda"), (80, "triton"), (75, "triton")])
def test_unmeasured_cards_get_what_was_made_for_them(code, expected, card):
    # Of another generation the module has PTX at best, which a driver translates.
    card(code=code)
    assert taken() == (expected, expected)
    card(able=("cuda", "torch"), code=code)
    assert taken() == ("cuda", "cuda")
    card(measured={"9.0": ENTRY}, code=code)
    assert taken() == ("cuda", "triton")


@pytest.mark.parametrize("arch, code, tailored", [(86, 80, True), (103, 100, True), (120, 120, True), (120, 90, False)])
def test_code_is_made_for_a_generation(arch, code, tailored, monkeypatch):
    monkeypatch.setattr(cuda_backend.library, "device_info", lambda number: {"arch": arch, "code": code})
    assert cuda_backend.CUDA.tailored(torch.device("cuda", 0)) is tailored


@pytest.mark.parametrize("part, other", [("kcenter", "knn"), ("knn", "kcenter")])
def test_one_part_may_be_measured_alone(part, other, card):
    card(measured={"9.0": {k: v for k, v in ENTRY.items() if k != other} | {part: "triton"}})
    assert {p: choose_backend("test", "auto", CUDA, p).name for p in choice.CALLS} == {part: "triton", other: "cuda"}


def test_the_cpu_is_no_matter_of_choice(card):
    before = taken(CPU)
    card(measured={"9.0": ENTRY})
    assert taken(CPU)[0] == before[0] or before[0] == "torch"
    with pytest.raises(ValueError, match="no backend runs on meta"):
        choose_backend("test", "auto", torch.device("meta"))


def test_a_named_backend_is_taken(card):
    card(measured={"9.0": ENTRY})
    assert [choose_backend("test", name, CUDA, "knn").name for name in ("cuda", "triton")] == ["cuda", "triton"]


def test_what_is_recorded_is_read():
    recorded = choice.measured()
    assert recorded == json.loads(choice.FILE.read_text())
    for capability, entry in recorded.items():
        assert capability.count(".") == 1 and set(choice.CALLS) & set(entry)
        assert {"device", "date", "commit"} <= set(entry)
        assert all(entry[part] in ("triton", "cuda") for part in choice.CALLS if part in entry)


def row(provider, seconds, status="ok"):
    return {"provider": f"patchcore_fast {provider}", "family": "ours", "status": status, "median_s": seconds}


def result(*problems, benchmark="kcenter", commit="abc123456", kind="cuda", capability="9.0"):
    place = {"kind": kind, "device": "Card 9", "commit": commit, "date": "2027-01-02"}
    place["cuda"] = {"capability": capability}
    return {"benchmark": benchmark, "environment": place, "problems": [{"rows": list(rows)} for rows in problems]}


@pytest.fixture
def script(monkeypatch, tmp_path):
    """benchmarks/gpu/choose_backend.py, writing to a file of the test."""
    choose_backend = pytest.importorskip("benchmarks.gpu.choose_backend", reason="installed without benchmarks/")
    monkeypatch.setattr(choose_backend, "FILE", tmp_path / "measured.json")
    monkeypatch.setattr(choose_backend, "ROOT", tmp_path)
    monkeypatch.setattr(choose_backend, "committed", lambda path: True)
    (tmp_path / "measured.json").write_text("{}")
    return choose_backend


def run(script, monkeypatch, tmp_path, *results):
    from benchmarks.harness.records import write

    names = []
    for i, whole in enumerate(results):
        write(tmp_path / f"{i}.json", whole)
        names.append(str(tmp_path / f"{i}.json"))
    script.main(names)
    return json.loads((tmp_path / "measured.json").read_text())


def test_the_faster_one_is_recorded(script, monkeypatch, tmp_path):
    picks = result([row("triton", 0.04), row("cuda", 0.02)], [row("triton", 0.05), row("cuda", 0.06)])
    search = result([row("triton", 0.01), row("cuda", 0.03), row("torch", 0.001)], benchmark="knn")
    entry = run(script, monkeypatch, tmp_path, picks, search)["9.0"]
    assert (entry["kcenter"], entry["knn"]) == ("cuda", "triton")
    assert (entry["kcenter_gain"], entry["knn_gain"]) == ("1.29 x", "3.00 x")  # sqrt(2 * 5 / 6)
    assert entry["commit"] == "abc123456" and entry["kcenter_result"] == "0.json"
    assert script.stale() == []
    (tmp_path / "measured.json").write_text(json.dumps({"9.0": {**entry, "kcenter": "triton"}}))
    assert script.stale() == ["9.0 kcenter: kcenter differ from 0.json"]


def test_one_that_was_wrong_is_not_taken(script, monkeypatch, tmp_path):
    both = [row("triton", 0.04), row("cuda", 0.02)]
    one = [row("triton", 0.05), row("cuda", 0.0, "wrong")]
    entry = run(script, monkeypatch, tmp_path, result(both, one))["9.0"]
    assert entry["kcenter"] == "triton" and entry["kcenter_gain"] == "the other was not right"


@pytest.mark.parametrize(
    "whole, reason",
    [
        (result([row("triton", 1.0)]), "no problem in which both triton and cuda ran and were right"),
        (result([row("triton", 0.0, "failed"), row("cuda", 0.0, "wrong")]), "no problem in which both"),
        (result([row("triton", 1.0), row("cuda", 0.0, "not run")]), "no problem in which both"),
        (result([row("triton", 1.0), row("cuda", 2.0)], kind="cpu"), "measured on cpu"),
        (result([row("triton", 1.0), row("cuda", 2.0)], benchmark="rarity"), "a result of kcenter or knn is wanted"),
        (result([row("triton", 1.0), row("cuda", 2.0)], commit="abc+changes"), "changed or unknown sources"),
        (result([row("triton", 1.0), row("cuda", 2.0)], commit="unknown"), "changed or unknown sources"),
    ],
)
def test_a_result_that_decides_nothing_is_refused(whole, reason, script, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=reason):
        run(script, monkeypatch, tmp_path, whole)
    assert (tmp_path / "measured.json").read_text() == "{}"


def test_parts_of_one_card_come_from_one_commit(script, monkeypatch, tmp_path):
    pair = [row("triton", 0.04), row("cuda", 0.02)]
    run(script, monkeypatch, tmp_path, result(pair))
    with pytest.raises(SystemExit, match="kcenter is recorded from another device or commit"):
        run(script, monkeypatch, tmp_path, result(pair, benchmark="knn", commit="def"))
    both = run(script, monkeypatch, tmp_path, result(pair, commit="def"), result(pair, benchmark="knn", commit="def"))
    assert both["9.0"]["commit"] == "def" and both["9.0"]["knn"] == "cuda"


def test_uncommitted_results_are_refused(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "committed", lambda path: False)
    with pytest.raises(SystemExit, match="not committed as they are: "):
        run(script, monkeypatch, tmp_path, result([row("triton", 0.04), row("cuda", 0.02)]))


def test_the_repository_is_not_stale():
    assert pytest.importorskip("benchmarks.gpu.choose_backend", reason="installed without benchmarks/").stale() == []
