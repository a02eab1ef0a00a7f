"""What is put to tensor cores, and the verdict on made-up answers: right ones, and those of worse hardware."""

import pytest
import torch

from patchcore_fast.kernels.backends.device import tensor_cores
from patchcore_fast.kernels.backends.device.tensor_cores import BFLOAT16, FLOAT16, TF32, Probe, judge, questions

# Of mma.sync, and of Triton's tile.
SHAPES = [(16, 8, 8, TF32), (64, 16, 32, TF32)]
SHAPES += [(16, 8, 16, kind) for kind in (FLOAT16, BFLOAT16)] + [(64, 16, 32, kind) for kind in (FLOAT16, BFLOAT16)]
CPU = torch.device("cpu")


def cut(x, bits, exponent=None):
    """Toward zero to so many bits, of x itself or of a number of another exponent."""
    exponent = torch.frexp(x)[1] if exponent is None else exponent
    unit = torch.ldexp(torch.ones_like(x), exponent - bits)
    return torch.trunc(x / unit) * unit


def tensor_core(asked, addends=24, sums=24, products=22, together=4, normal=0.0):
    """Answers of hardware that keeps so many bits, adds so many products at once, and takes less than `normal` as 0."""
    total = asked.start.double()
    x, y = (torch.where(v.double().abs() < normal, 0, v.double()) for v in (asked.x, asked.y))
    for first in range(0, x.shape[2], together):
        part = slice(first, first + together)
        terms = x[:, :, None, part] * y[:, None, :, part]
        terms = torch.cat([cut(terms, products), total[..., None]], 3)
        largest = torch.where(terms == 0, -200, torch.frexp(terms)[1]).amax(3, keepdim=True).expand(terms.shape)
        total = cut(cut(terms, addends, largest).sum(3), sums)
    return total.float()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("together", [4, 8, 16])
@pytest.mark.parametrize("guard", [0, 1, 3])
def test_hardware_that_does_what_the_bound_assumes_is_trusted(shape, together, guard):
    asked = questions(*shape)
    assert judge(asked, tensor_core(asked, addends=24 + guard, together=together)) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_sums_rounded_once_are_trusted(shape):
    asked = questions(*shape)
    assert judge(asked, asked.right.float()) is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ({"addends": 23}, "fewer than 24 bits"),
        ({"addends": 22}, "fewer than 24 bits"),
        ({"sums": 23}, "fewer than 24 bits"),
        ({"sums": 22}, "fewer than 24 bits"),
        ({"products": -1}, "-bit numbers are not exact"),  # one bit less than a product has
        ({"products": 11}, "-bit numbers are not exact"),
    ],
)
def test_worse_hardware_is_refused_and_told_why(shape, bits, words):
    asked = questions(*shape)
    if bits.get("products") == -1:
        bits = {"products": 2 * asked.numbers.bits - 1}
        words = f"products of {asked.numbers.bits}{words}"
    reason = judge(asked, tensor_core(asked, **bits))
    assert reason is not None and words in reason and " is right" in reason


@pytest.mark.parametrize("shape", SHAPES)
def test_small_halves_must_be_taken_as_they_are(shape):
    asked = questions(*shape)
    reason = judge(asked, tensor_core(asked, normal=2.0**-14))
    # The smallest of the other types are far below; what is lost there the bound has room for.
    assert (reason is None) == (asked.numbers is not FLOAT16)
    assert reason is None or reason.startswith("products of subnormal numbers are not exact")


@pytest.mark.parametrize("shape", SHAPES)
def test_each_place_counts(shape):
    """One wrong answer anywhere, by one unit in the last place or not a number, is enough."""
    asked = questions(*shape)
    right = asked.right.float()
    generator = torch.Generator().manual_seed(0)
    for tile, kind in enumerate(asked.kinds):
        row, other = (int(torch.randint(0, size, (1,), generator=generator)) for size in shape[:2])
        for change in (torch.nan, torch.inf, right[tile, row, other].nextafter(torch.tensor(torch.inf))):
            answers = right.clone()
            answers[tile, row, other] = change
            near = kind == "bound" and bool(torch.isfinite(torch.as_tensor(change)))
            assert (judge(asked, answers) is None) == near, kind


@pytest.mark.parametrize("shape", SHAPES)
def test_the_questions_are_numbers_of_the_type_with_exact_answers(shape):
    asked = questions(*shape)
    for values in (asked.x, asked.y):
        assert values.dtype == asked.numbers.dtype
        if asked.numbers is TF32:
            assert not (values.view(torch.int32) & 0x1FFF).any()
    # They were made in float32, and nothing was rounded.
    right = asked.start.double() + asked.x.double() @ asked.y.double().mT
    assert torch.equal(asked.right, right) and bool(right.isfinite().all())
    exact = torch.tensor([kind != "bound" for kind in asked.kinds])
    assert torch.equal(asked.right[exact].float().double(), asked.right[exact])
    # Without the last of 24 bits each tile of sums would have another answer everywhere.
    sums = torch.tensor([kind == "sums" for kind in asked.kinds])
    right = asked.right[sums]
    assert ((right.abs() < 1) | (right.float().view(torch.int32) & 1).bool()).all()


class Card:
    """A device that is asked."""

    def __init__(self, monkeypatch, answer):
        self.times, self.capturing = 0, False
        monkeypatch.setattr(tensor_cores, "captured", lambda device: self.capturing)
        self.device = torch.device("cuda", 3)
        self.probe = Probe("the test", SHAPES[0][:3], self.ask)
        self.answer = answer

    def ask(self, asked, device):
        assert device == self.device
        self.times += 1
        return self.answer(asked)


def test_a_device_is_asked_once(monkeypatch):
    card = Card(monkeypatch, tensor_core)
    assert card.probe.known(card.device) == (False, None)
    assert [card.probe.refusal(card.device) for _ in range(3)] == [None] * 3 and card.times == 1
    assert card.probe.known(card.device) == (True, None)


def test_a_refusal_is_told_once(monkeypatch, caplog):
    card = Card(monkeypatch, lambda asked: tensor_core(asked, addends=22))
    reasons = {card.probe.refusal(card.device) for _ in range(3)}
    assert card.times == 1 and len(reasons) == 1 and "24 bits" in reasons.pop()
    assert [r.message for r in caplog.records if "tf32x3 is not taken on cuda:3" in r.message] == [
        r.message for r in caplog.records
    ]
    assert len(caplog.records) == 1


def test_each_kind_is_refused_by_itself(monkeypatch, caplog):
    card = Card(monkeypatch, lambda asked: tensor_core(asked, addends=22 if asked.numbers is BFLOAT16 else 24))
    probes = [Probe("the test", (16, 8, 16), card.ask, numbers) for numbers in (TF32, FLOAT16, BFLOAT16)]
    assert [probe.refusal(card.device) is None for probe in probes] == [True, True, False]
    assert len(caplog.records) == 1
    assert "half for bfloat16 rows is not taken on cuda:3: the tensor cores do not add up" in caplog.text


def test_nothing_is_asked_while_a_graph_is_captured(monkeypatch):
    card = Card(monkeypatch, tensor_core)
    card.capturing = True
    assert "captured" in card.probe.refusal(card.device) and card.times == 0
    card.capturing = False
    assert card.probe.refusal(card.device) is None and card.times == 1
    card.capturing = True
    assert card.probe.refusal(card.device) is None


def test_a_device_that_cannot_answer_is_asked_again(monkeypatch):
    def broken(asked):
        raise torch.OutOfMemoryError("no memory left")

    card = Card(monkeypatch, broken)
    assert "could not be asked: no memory left" in card.probe.refusal(card.device)
    assert card.probe.known(card.device) == (False, None)
    card.answer = tensor_core
    assert card.probe.refusal(card.device) is None and card.times == 2
