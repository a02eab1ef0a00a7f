"""Where the CUDA backend runs, and why not elsewhere."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from patchcore_fast.kernels import explain_backends, k_center_greedy, knn
from patchcore_fast.kernels.backends import choose_backend, cuda_backend
from patchcore_fast.kernels.backends.cuda_kernels import library
from patchcore_fast.kernels.backends.cuda_kernels.precision import choose_arithmetic
from patchcore_fast.kernels.backends.device import layout

from ..kernels.cases import gaussian
from ..programs import run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NUMBERS = {name: value for name, value in vars(layout).items() if name.isupper()}


@pytest.fixture
def card(monkeypatch):
    """Pretend that there is one CUDA device, and a module with kernels that says this of it."""

    stale = library._stale.__wrapped__

    def pretend(capability=(8, 6), native=None, capturing=False, **told):
        arch = 10 * capability[0] + capability[1]
        found = {"arch": arch, "code": arch, "multiprocessors": 30, "driver": 13000, "runnable": True, "reason": "",
                 "lasting": True, "archs": [75, 80], "ptx": 80} | told  # fmt: skip
        current, asked = [], []

        def device_info(number):
            assert number == 0 and current  # torch's guard is round it: no other card gets a context
            asked.append(number)
            if isinstance(found["reason"], Exception):
                raise found["reason"]
            return dict(found)

        @contextlib.contextmanager
        def on_device(device):
            current.append(device)
            try:
                yield
            finally:
                current.pop()

        kernels = SimpleNamespace(device_info=device_info, kcenter_layout=lambda: NUMBERS, info=lambda: found)
        module = SimpleNamespace(cuda=kernels) if native is None else native
        monkeypatch.setattr(library, "native", lambda: module)
        monkeypatch.setattr(library, "native_refusal", lambda: None)
        monkeypatch.setattr(library, "_stale", stale)
        monkeypatch.setattr(library, "_told", {})
        monkeypatch.setattr(library, "captured", lambda device: capturing)
        monkeypatch.setattr(cuda_backend, "on_device", on_device)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        return found, asked

    return pretend


def refusal(device):
    return cuda_backend.CUDA.refuse(device)


def test_a_card_that_can(card, monkeypatch):
    monkeypatch.delenv(library.VARIABLE, raising=False)
    card()
    assert refusal(CUDA) is None and refusal(torch.device("cuda:0")) is None and cuda_backend.CUDA.automatic(CUDA)
    assert refusal(CPU) == "CUDA kernels run on CUDA devices"
    assert refusal(torch.device("mps")) == "CUDA kernels run on CUDA devices, not on mps"
    assert choose_backend("test", "cuda", CUDA) is cuda_backend.CUDA


@pytest.mark.parametrize(
    "capability, code, chosen_by",
    [((8, 6), 86, (8, 6)), ((8, 6), 80, (8, 6)), ((9, 0), 75, (7, 5)), ((12, 0), 75, (7, 5)), ((7, 5), 75, (7, 5))],
)
def test_arithmetic_goes_by_the_card_unless_its_code_has_no_tf32(card, monkeypatch, capability, code, chosen_by):
    monkeypatch.setattr(library.TENSOR_CORES, "refusal", lambda device: None)  # a card that passes
    card(capability, code=code)
    assert refusal(CUDA) is None and library.capability(CUDA) == chosen_by


def test_what_lasts_is_asked_once(card):
    why = "nothing compiled here runs on compute capability 8.6: no kernel image"
    for lasting in ({}, {"runnable": False, "reason": why}):
        _, asked = card(**lasting)
        assert refusal(CUDA) == refusal(CUDA) == (lasting.get("reason") or None) and len(asked) == 1


def test_what_passes_is_asked_again(card):
    now = "the device cannot be used now: out of memory"
    found, asked = card(runnable=False, reason=now, lasting=False)
    assert refusal(CUDA) == refusal(CUDA) == now and len(asked) == 2
    found.update(runnable=True, reason="", lasting=True)
    assert refusal(CUDA) is None and refusal(CUDA) is None and len(asked) == 3


COMPILED = [((8, 6), [75, 80, 86, 90], 90, 86), ((8, 9), [75, 80, 86], 86, 86), ((9, 0), [75], 75, 75)]
COMPILED += [((10, 3), [90, 100], 100, 100), ((8, 0), [86], 86, 0), ((8, 6), [75], 0, 0)]


@pytest.mark.parametrize("capability, archs, ptx, code", COMPILED)
def test_a_device_is_not_asked_while_a_graph_is_captured(card, monkeypatch, capability, archs, ptx, code):
    monkeypatch.setattr(library.TENSOR_CORES, "refusal", lambda device: None)  # a card that passes
    _, asked = card(capability, capturing=True, archs=archs, ptx=ptx)
    why = None if code else "nothing compiled here runs on compute capability {}.{}".format(*capability)
    assert refusal(CUDA) == why and library.device_info(0)["code"] == code
    assert not asked and not library._told
    if code:
        assert library.capability(CUDA) == (capability if code >= 80 else (7, 5))


def test_what_was_told_before_holds_while_a_graph_is_captured(card, monkeypatch):
    _, asked = card(code=75)
    assert refusal(CUDA) is None
    monkeypatch.setattr(library, "captured", lambda device: True)
    assert library.device_info(0)["code"] == 75 and len(asked) == 1


OTHER = SimpleNamespace(cuda=SimpleNamespace(kcenter_layout=lambda: NUMBERS | {"EDGE": 5, "NEW": 3}))


@pytest.mark.parametrize(
    "pretended, reason",
    [
        ({"capability": (7, 0)}, "compute capability 7.0, 7.5 or later is wanted"),
        ({"runnable": False, "reason": "no kernels for compute capability 8.6"}, "no kernels for compute capability"),
        ({"reason": RuntimeError("CUDA error 35 (driver too old)")}, "CUDA error 35 (driver too old)"),
        ({"native": SimpleNamespace(cuda_refusal=lambda: "built with PATCHCORE_FAST_CUDA=0")}, "PATCHCORE_FAST_CUDA=0"),
        ({"native": SimpleNamespace()}, "was built without CUDA kernels"),
        ({"native": OTHER}, "built from other sources: EDGE, NEW differ"),
    ],
)
def test_a_card_that_cannot(pretended, reason, card):
    card(**pretended)
    assert reason in refusal(CUDA)
    with pytest.raises(ValueError, match="test: backend 'cuda' cannot run on cuda: "):
        choose_backend("test", "cuda", CUDA)
    said = {s.device: s for s in explain_backends() if s.backend == "cuda"}
    assert reason in said["cuda"].reason and not said["cuda"].available


def test_without_a_device_or_with_rocm(card, monkeypatch):
    card()
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert refusal(CUDA) == "these kernels have not been made for ROCm"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(CUDA) == "torch finds no CUDA device"


def test_without_the_native_module(monkeypatch):
    monkeypatch.setattr(library, "native_refusal", lambda: "built for another Python")
    assert refusal(CUDA) == "built for another Python"
    with pytest.raises(RuntimeError, match="no CUDA kernels for cuda: built for another Python"):
        library.library(CUDA)


def test_the_emulation_is_asked_for_by_its_path(monkeypatch, tmp_path):
    monkeypatch.delenv(library.VARIABLE, raising=False)
    x = gaussian(9, 3)
    for call in (lambda: knn(x, x, 1, backend="cuda"), lambda: k_center_greedy(x, 2, backend="cuda")):
        with pytest.raises(ValueError, match="backend 'cuda' cannot run on cpu: CUDA kernels run on CUDA devices"):
            call()
    for name, content, reason in (
        ("no.txt", "", "is no Python module"),
        ("none.so", "no library", "cannot be loaded"),
        ("gone.so", None, "cannot be loaded"),
        ("other.py", "x = 1", "has no CUDA kernels"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        monkeypatch.setenv(library.VARIABLE, str(tmp_path / name))
        assert reason in refusal(CPU) and str(tmp_path / name) in refusal(CPU)


def test_auto_never_takes_the_emulation(emulated):
    assert refusal(CPU) is None and not cuda_backend.CUDA.automatic(CPU)
    assert choose_backend("test", "auto", CPU).name in ("native", "torch")
    assert choose_backend("test", "cuda", CPU).name == "cuda"


def test_the_numbers_are_those_of_the_kernels(emulated):
    theirs = library.library(CPU).kcenter_layout()
    assert theirs == NUMBERS
    told = library.library(CPU).info()
    assert told["emulated"] is True and library.capability(CPU) in ((7, 5), (8, 0))


def test_a_module_with_cuda_is_loaded_without_a_driver():
    # explain_backends asks every backend about every device: nothing of that may fail where no driver is.
    code = """
from patchcore_fast.kernels import explain_backends
print(sum(s.backend == "cuda" for s in explain_backends()))
"""
    done = run(code)
    assert done.returncode == 0 and int(done.stdout) >= 2, done.stderr


TENSOR_CORES = [("float32", (8, 0), 128), ("float32", (9, 0), 1 << 16), ("tf32x3", (8, 6), 128), ("tf32", (9, 0), 128)]
IEEE = [("float32", card, 128) for card in ((7, 5), (8, 6), (12, 0))] + [("tf32x3", (7, 5), 128), ("bf16", (8, 9), 128)]
FFMA = [("float32", (9, 0), (1 << 16) + 1), ("float32", (8, 6), (1 << 16) + 1), ("ieee", (9, 0), 128)]
MODES = [(*case, mode) for mode, cases in (("tf32x3", TENSOR_CORES), ("ieee", IEEE), ("ffma", FFMA)) for case in cases]


@pytest.mark.parametrize("precision, capability, dim, mode", MODES)
def test_arithmetic(precision, capability, dim, mode):
    found = choose_arithmetic(precision, capability, dim)
    assert found.mode == mode and found.certified
    assert choose_arithmetic(precision, capability, dim, "ieee").mode == mode.replace("ffma", "ieee")
