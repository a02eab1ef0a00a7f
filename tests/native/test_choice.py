"""Which engine a call takes: the forced instruction set, what is refused, and torch where the module is missing."""

import pytest
import torch

from patchcore_fast.kernels import explain_backends, k_center_greedy, knn
from patchcore_fast.kernels.backends import choose_backend, native_library

CPU = torch.device("cpu")
here = pytest.mark.skipif(native_library.native_refusal() is not None, reason=str(native_library.native_refusal()))
EXPLAINED = [] if native_library.native_refusal() else native_library.native().explain_isa()


def reason(backend):
    return {(s.backend, s.device): s for s in explain_backends()}[backend, "cpu"]


@here
@pytest.mark.parametrize("isa", [name for name, refusal in EXPLAINED if not refusal])
def test_forced_instruction_set_is_the_one_that_runs(isa, monkeypatch):
    monkeypatch.setenv("PATCHCORE_FAST_ISA", isa)
    assert choose_backend("test", "auto", CPU).name == "native"
    assert reason("native").available and reason("native").reason == f"C++, {isa}"


@here
@pytest.mark.parametrize("backend", ["auto", "native"])
@pytest.mark.parametrize(
    "value, message",
    [("nonsense", "PATCHCORE_FAST_ISA: want auto, .*got 'nonsense'")]
    + [(name, f"PATCHCORE_FAST_ISA={name}: ") for name, refusal in EXPLAINED if refusal],
)
def test_unknown_or_refused_instruction_set_is_an_error(value, message, backend, monkeypatch):
    # Never another one in silence: whoever forces a set wants to know.
    monkeypatch.setenv("PATCHCORE_FAST_ISA", value)
    x = torch.randn(20, 3)
    with pytest.raises((ValueError, RuntimeError), match=message):
        k_center_greedy(x, 3, backend=backend)
    with pytest.raises((ValueError, RuntimeError), match=message):
        knn(x, x, 1, backend=backend)
    assert k_center_greedy(x, 3, backend="torch").indices.shape == (3,)


@here
def test_explaining_survives_an_unknown_instruction_set(monkeypatch):
    monkeypatch.setenv("PATCHCORE_FAST_ISA", "nonsense")
    assert "got 'nonsense'" in reason("native").reason
    assert reason("torch").available


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr(native_library, "_load", lambda: "there is none, says the test")


def test_without_the_module_auto_is_torch(missing):
    assert choose_backend("test", "auto", CPU).name == "torch"
    row = reason("native")
    assert not row.available and row.reason == "there is none, says the test"
    assert reason("torch").available
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(k_center_greedy(x, 9).indices, k_center_greedy(x, 9, backend="torch").indices)
    assert torch.equal(knn(x, x, 2)[1], knn(x, x, 2, backend="torch")[1])


def test_without_the_module_naming_it_is_an_error_with_the_reason(missing):
    x = torch.randn(5, 3)
    for call in (lambda: k_center_greedy(x, 2, backend="native"), lambda: knn(x, x, 1, backend="native")):
        with pytest.raises(ValueError, match="backend 'native' cannot run on cpu: there is none, says the test"):
            call()
