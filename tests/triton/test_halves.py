"""Rows of halves that need no frame are multiplied as they are: picks and neighbours stay those of float64."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels import Tuning, k_center_greedy, knn
from patchcore_fast.kernels.backends.base import KCenterJob
from patchcore_fast.kernels.backends.device import knn as searching
from patchcore_fast.kernels.backends.triton_kernels import kcenter, probe
from patchcore_fast.kernels.backends.triton_kernels import knn as host
from patchcore_fast.kernels.backends.triton_kernels.tiles import Tile
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.knn.reference import knn_reference
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian, integers
from ..kernels.tiled_kcenter import options
from ..kernels.watch import held
from .knn_helpers import DEVICE, SMALL

TYPES = [torch.float16, torch.bfloat16]
TUNING = Tuning(batch=20, block=16)
CLUSTERED = (gaussian(6, 20) * 4).repeat(20, 1) + gaussian(120, 20, seed=1) / 64
ROWS = {
    "gaussian": gaussian(120, 20),
    "integers": integers(120, 8),
    "duplicates": gaussian(12, 20).repeat(10, 1),
    "clustered": CLUSTERED,
    "odd columns": gaussian(90, 37) * 2,
    "one column": gaussian(90, 1),
    "large": gaussian(90, 9) * 9000,
}
FRAMED = {"far": gaussian(90, 20) + 60, "one row": gaussian(1, 20).repeat(90, 1), "small": gaussian(90, 20) * 2.0**-23}


@pytest.fixture
def modes(monkeypatch) -> list[str]:
    """The arithmetic of every call."""
    seen: list[str] = []
    for kind in (kcenter.TritonKCenter, host.TritonSearch):

        def noted(self, whole=kind._prepare) -> None:
            whole(self)
            seen.append(self.arithmetic.mode)

        monkeypatch.setattr(kind, "_prepare", noted)
    return seen


def picks(x: torch.Tensor, k: int = 14, **chosen) -> None:
    """As many picks as the reference has, the same ones."""
    found = k_center_greedy(x.to(DEVICE), k, backend="triton", tuning=TUNING, **chosen)
    expected = k_center_greedy_reference(x, k, **chosen)
    assert found.indices.tolist() == expected[0].tolist() and torch.equal(found.radii.cpu(), expected[1])


def neighbours(query: torch.Tensor, bank: torch.Tensor, k: int) -> None:
    distance, rows = knn(query.to(DEVICE), bank.to(DEVICE), k, backend="triton")
    expected = knn_reference(query, bank, k)
    assert torch.equal(rows.cpu(), expected[1]) and torch.equal(distance.cpu(), expected[0])


# Usually the rows of one kind are of one type, the next ones of the other.
ALTERNATELY = [pytest.param(name, dtype, marks=[pytest.mark.thorough] * (i % 2 != j))
               for i, name in enumerate(ROWS) for j, dtype in enumerate(TYPES)]  # fmt: skip


@pytest.mark.parametrize("name, dtype", ALTERNATELY, ids=str)
def test_picks(name: str, dtype: torch.dtype, modes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcenter, "choose_tile", lambda *shape: Tile(32, 16, 16, 4, 1))
    x = ROWS[name].to(dtype)
    picks(x)
    picks(x[:70], 12, **options(x[:70]))
    assert modes == ["half", "half"]


@pytest.mark.parametrize("name, dtype", ALTERNATELY, ids=str)
def test_neighbours(name: str, dtype: torch.dtype, modes: list[str], small_tiles) -> None:
    bank = ROWS[name].to(dtype)
    query = torch.cat([bank[:7], (ROWS[name][5:20].flip(0) * 1.03).to(dtype)])
    neighbours(query, bank, 1)
    neighbours(query, bank, 5)
    assert modes == ["half", "half"]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_crowded_queries(dtype: torch.dtype, modes: list[str], rescued, small_tiles) -> None:
    bank = gaussian(9, 20).repeat(30, 1).to(dtype)
    neighbours(bank[5:14] * 2, bank, 3)
    assert sum(rescued) > 0 and modes == ["half"]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_layouts(dtype: torch.dtype, modes: list[str]) -> None:
    x = gaussian(120, 26).to(dtype)
    for view in (x[::2, ::3], x[:40].t(), x[:, 1:20], x[:2].repeat(20, 1)[:, ::5]):
        picks(view, 9)
        neighbours(view[:9], view, 2)
    assert set(modes) == {"half"}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", FRAMED)
def test_what_needs_a_frame_is_converted(name: str, dtype: torch.dtype, modes: list[str], small_tiles) -> None:
    x = FRAMED[name].to(dtype)
    picks(x, 9)
    neighbours(x[:9], x, 2)
    assert "half" not in modes


def test_what_else_is_no_half(modes: list[str], small_tiles, monkeypatch: pytest.MonkeyPatch) -> None:
    x = gaussian(60, 9)
    neighbours(x[:9].half(), x.bfloat16(), 2)
    neighbours(x[:9].half(), x, 2)
    knn(x[:9].half().to(DEVICE), x.half().to(DEVICE), 2, backend="triton", precision="ieee")
    # What is captured in a graph is not looked at by the host.
    monkeypatch.setattr(searching, "captured", lambda device: True)
    neighbours(x[:9].half(), x.half(), 2)
    assert len(modes) == 4 and "half" not in modes


def test_only_cards_that_can_and_have_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []

    class Answer:
        def __init__(self, dtype: torch.dtype, reason: str | None) -> None:
            self.dtype, self.reason = dtype, reason

        def refusal(self, device: torch.device) -> str | None:
            asked.append(self.dtype)
            return self.reason

    given = {torch.float16: Answer(torch.float16, None), torch.bfloat16: Answer(torch.bfloat16, "it cannot count")}
    monkeypatch.setattr(probe, "HALF_CORES", given)
    card = torch.device("cuda", 0)
    for capability, trusted in (((7, 5), []), ((8, 0), [torch.float16]), ((12, 0), [torch.float16])):
        monkeypatch.setattr(probe, "capability", lambda device, capability=capability: capability)
        assert [dtype for dtype in TYPES if probe.halves_trusted(dtype, card)] == trusted
    assert asked == TYPES * 2


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_memory_is_half_as_much(dtype: torch.dtype, small_tiles) -> None:
    x = gaussian(500, 40)

    def leaves(x: torch.Tensor) -> kcenter.TritonKCenter:
        initial = torch.full((500,), torch.inf, dtype=torch.float64, device=DEVICE)
        return kcenter.TritonKCenter(KCenterJob("test", x.to(DEVICE), initial, None, 0, 100, TUNING, Budget()))

    made, whole = leaves(x.to(dtype)), leaves(x)
    assert made.picks.dtype == dtype and whole.picks.nbytes == 2 * made.picks.nbytes
    assert whole.bytes(16) - made.bytes(16) == made.picks.nbytes
    assert 0.95 * made.bytes(16) <= held(made) <= 1.05 * made.bytes(16)
    halved, wide = (host.TritonSearch(x[:90].to(t).to(DEVICE), x.to(t).to(DEVICE), 3, Budget()) for t in
                    (dtype, torch.float32))  # fmt: skip
    for limit in (1 << 15, 1 << 16):
        assert halved.plan(limit).bank > 1.5 * wide.plan(limit).bank and halved.bytes(halved.plan(limit)) <= limit


def test_pieces(small_tiles, plans) -> None:
    query, bank = gaussian(61, 40, seed=1).half(), gaussian(171, 40).half()
    squared, rows = host.knn(query.to(DEVICE), bank.to(DEVICE), 2, Budget(memory_limit=1 << 14))
    expected = knn_reference(query, bank, 2)
    assert torch.equal(rows.cpu(), expected[1]) and torch.equal(squared.sqrt().float().cpu(), expected[0])
    assert plans[-1].bank < 171 and plans[-1].queries < 61 and SMALL.others <= plans[-1].bank
