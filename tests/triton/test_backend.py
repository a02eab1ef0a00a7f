"""Where the Triton backend runs, why not elsewhere, and when triton is imported."""

import importlib.util
import logging
import os
import subprocess
import sys

import pytest
import torch

from patchcore_fast.kernels import explain_backends, k_center_greedy, knn
from patchcore_fast.kernels.backends import choose_backend, triton_backend

from ..kernels.cases import gaussian

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def card(monkeypatch):
    """Pretend that there is one CUDA device, of compute capability 8.6, and triton 3.4."""

    def pretend(capability=(8, 6), triton="3.4.0"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(triton_backend, "version", lambda name: triton)
        monkeypatch.setattr(triton_backend, "_missing", triton_backend._missing.__wrapped__)
        monkeypatch.setattr(triton_backend, "_interpreted", lambda: False)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return pretend


def refusal(device):
    return triton_backend.TRITON.refuse(device)


def test_a_card_that_can(card):
    card()
    assert refusal(CUDA) is None and triton_backend.TRITON.automatic(CUDA)
    assert choose_backend("test", "auto", CUDA).name == "triton"
    assert choose_backend("test", "auto", CPU).name != "triton"
    assert refusal(CPU) == "Triton kernels run on CUDA devices"
    assert "not on mps" in refusal(torch.device("mps"))


@pytest.mark.parametrize(
    "pretended, reason",
    [
        ({"capability": (7, 0)}, "compute capability 7.0, 7.5 or later is wanted"),
        ({"triton": "3.2.0"}, "triton 3.2.0 is installed, 3.3 or later is wanted"),
        ({"triton": "2.3.1+git1"}, r"triton 2.3.1+git1 is installed"),
    ],
)
def test_a_card_that_cannot(pretended, reason, card, caplog):
    card(**pretended)
    assert reason in refusal(CUDA)
    with caplog.at_level(logging.DEBUG, "patchcore_fast.kernels"):
        assert choose_backend("test", "auto", CUDA).name == "torch"
    assert reason in caplog.text
    with pytest.raises(ValueError, match="test: backend 'triton' cannot run on cuda: "):
        choose_backend("test", "triton", CUDA)


def test_without_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(triton_backend, "_missing", triton_backend._missing.__wrapped__)
    x = gaussian(9, 3)
    for call in (lambda: knn(x, x, 1, backend="triton"), lambda: k_center_greedy(x, 2, backend="triton")):
        with pytest.raises(ValueError, match="backend 'triton' cannot run on cpu: triton is not installed"):
            call()
    reasons = {s.reason for s in explain_backends() if s.backend == "triton"}
    assert reasons == {"triton is not installed"}
    assert torch.equal(knn(x, x, 1)[1][:, 0], torch.arange(9))


def test_without_a_device(monkeypatch):
    pytest.importorskip("triton", minversion="3.3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(CUDA) == "torch finds no CUDA device"


@pytest.mark.parametrize("interpret", [pytest.param("0", marks=pytest.mark.thorough), "1"])
def test_triton_is_imported_by_the_first_call_that_runs_on_it(interpret):
    # A call that it refuses, explain_backends and `auto` on the CPU do without.
    code = """
import sys, torch
from patchcore_fast.kernels import explain_backends, k_center_greedy, knn
x = torch.randn(20, 3)
knn(x, x, 1), k_center_greedy(x, 2)
loaded = "triton.language" in sys.modules
print([s.available for s in explain_backends() if (s.backend, s.device) == ("triton", "cpu")], loaded)
"""
    place = os.environ | {"TRITON_INTERPRET": interpret}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=place)
    there = importlib.util.find_spec("triton") is not None
    assert done.stdout == f"[{there and interpret == '1'}] False\n"
