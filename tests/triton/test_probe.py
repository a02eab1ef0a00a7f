"""The probe of tensor cores by Triton's dot: the kernel, what it compiles to, and what follows from its verdict.

The interpreter multiplies in float32, so what TF32 does shows only on a card.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from patchcore_fast.kernels.backends.device import tensor_cores
from patchcore_fast.kernels.backends.device.tensor_cores import BFLOAT16, FLOAT16, TF32, Numbers, judge, questions
from patchcore_fast.kernels.backends.triton_backend import TRITON
from patchcore_fast.kernels.backends.triton_kernels import probe
from patchcore_fast.kernels.backends.triton_kernels.launch import interpreted
from patchcore_fast.kernels.backends.triton_kernels.precision import PROBED, Arithmetic

CARD = torch.device("cuda", 0)
NUMBERS = [TF32, FLOAT16, BFLOAT16]
INSTRUCTIONS = {80: "mma.sync", 90: "wgmma.mma_async"}
OPERANDS = {"tf32": "tf32", "float16": "f16", "bfloat16": "bf16"}
COMPILE = """
import json, sys
from patchcore_fast.kernels.backends.triton_kernels import offline
from patchcore_fast.kernels.backends.triton_kernels.catalogue import variants
found = {}
for capability in map(int, sys.argv[1:]):
    for variant in variants(divmod(capability, 10)):
        if variant.kernel.key == "probe.products_kernel":
            found[f"{capability} {variant.label}"] = offline.measure(variant, capability).mma
print(json.dumps(found))
"""


@pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")
@pytest.mark.parametrize("numbers", NUMBERS, ids=lambda numbers: numbers.name)
def test_the_kernel_multiplies(numbers: Numbers) -> None:
    asked = questions(*PROBED, numbers)
    found = probe.ask(asked, torch.device("cpu"))
    # The interpreter's products are float32's: what is lost is a rounding for each addend.
    x, y, start = (t.double().abs() for t in (asked.x, asked.y, asked.start))
    size = start + x @ y.mT
    assert bool(((found.double() - asked.right).abs() <= 2**-24 * (x.shape[-1] + 1) * size).all())
    exact = torch.tensor([kind == "products" for kind in asked.kinds])
    assert torch.equal(found[exact].double(), asked.right[exact])


@pytest.mark.skipif(not torch.cuda.is_available() or interpreted(), reason="no CUDA device")
def test_this_card_passes() -> None:
    if torch.cuda.get_device_capability() >= (8, 0):
        for numbers in NUMBERS:
            asked = questions(*PROBED, numbers)
            assert judge(asked, probe.ask(asked, CARD)) is None


def test_it_compiles_to_the_instructions_that_are_to_be_trusted() -> None:
    command = [sys.executable, "-c", COMPILE, *map(str, INSTRUCTIONS)]
    place = os.environ | {"TRITON_INTERPRET": "0"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=place, cwd=root, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        f"{capability} {label}": f"{mma} {operands}"
        for capability, mma in INSTRUCTIONS.items()
        for label, operands in OPERANDS.items()
    }


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A card that gives the answers under "all": at first the right ones."""
    given = {"all": questions(*PROBED).right.float()}
    made = tensor_cores.Probe("the Triton backend", PROBED, lambda asked, device: given["all"])
    halves = questions(*PROBED, FLOAT16)
    given["float16"] = halves.right.float()
    half = tensor_cores.Probe("the Triton backend", PROBED, lambda asked, device: given["float16"], FLOAT16)
    monkeypatch.setattr(probe, "TENSOR_CORES", made)
    monkeypatch.setattr(probe, "HALF_CORES", {torch.float16: half})
    monkeypatch.setattr(probe, "capability", lambda device: (8, 6))
    monkeypatch.setattr(tensor_cores, "captured", lambda device: False)
    return given


def test_what_passes_is_trusted(answers: dict[str, torch.Tensor]) -> None:
    for mode in ("tf32x3", "ieee", "tf32", "bf16"):
        assert probe.trusted(Arithmetic(mode), CARD) == Arithmetic(mode)
    assert TRITON.remark(CARD) == ""


def test_what_fails_is_replaced_and_told(answers: dict[str, torch.Tensor]) -> None:
    assert TRITON.remark(CARD) == ""  # nobody has asked
    answers["all"] = answers["all"] * (1 + 2.0**-22)
    for mode in ("ieee", "tf32", "bf16"):  # not what the verdict is about: asked for by name, or float32
        assert probe.trusted(Arithmetic(mode), CARD) == Arithmetic(mode)
    assert TRITON.remark(CARD) == ""
    assert probe.trusted(Arithmetic("tf32x3"), CARD) == Arithmetic("ieee")
    assert TRITON.remark(CARD).startswith("tf32x3 is not taken: the tensor cores do not add up as its bound needs")


def test_halves_are_asked_and_refused_by_themselves(answers: dict[str, torch.Tensor]) -> None:
    assert probe.halves_trusted(torch.float16, CARD) and TRITON.remark(CARD) == ""
    answers["all"] = answers["all"] * (1 + 2.0**-22)
    assert probe.trusted(Arithmetic("tf32x3"), CARD) == Arithmetic("ieee")
    assert probe.halves_trusted(torch.float16, CARD) and "half" not in TRITON.remark(CARD)


def test_halves_that_fail_are_told(answers: dict[str, torch.Tensor]) -> None:
    answers["float16"] = answers["float16"] * (1 + 2.0**-22)
    assert not probe.halves_trusted(torch.float16, CARD)
    assert probe.trusted(Arithmetic("tf32x3"), CARD) == Arithmetic("tf32x3")
    assert TRITON.remark(CARD).startswith("half for float16 rows is not taken: the tensor cores do not add up")


def test_the_interpreter_is_not_asked(answers: dict[str, torch.Tensor]) -> None:
    answers.clear()
    assert probe.trusted(Arithmetic("tf32x3"), torch.device("cpu")) == Arithmetic("tf32x3")
