"""What the CUDA k-center leaves do besides picking: memory, waits for the device, refusals.

The driver is the Triton leaves' too (kernels/backends/device), and tests/triton looks at more of it.
"""

import logging

import pytest
import torch

from patchcore_fast.kernels import Tuning
from patchcore_fast.kernels.backends.base import KCenterJob
from patchcore_fast.kernels.backends.cuda_kernels.kcenter import CudaKCenter
from patchcore_fast.kernels.backends.device import kcenter as device_kcenter
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian
from ..kernels.tiled_kcenter import (  # noqa: F401
    PASSES,
    test_arguments_are_not_changed,
    test_memory_limit,
    test_unfinite_rows_are_refused,
)
from ..kernels.watch import Allocations, held, waits
from .kcenter_runs import DEVICE, engine, leaves, select  # noqa: F401

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("name", PASSES)
def test_the_host_waits_once_for_some_passes_and_a_pass_allocates_nothing(name, monkeypatch):
    x = PASSES[name]
    made, rows = leaves(x, 20, Tuning(batch=16, block=16)), [0]
    while len(rows) < 20:
        with waits(monkeypatch) as seen, Allocations() as allocated:
            found = made.advance(20 - len(rows))
        rows += found.rows.tolist()
        assert seen == ["cpu"] and found.passes >= 1
        made_here = [(name, size) for name, size in allocated.made if size]
        assert {name for name, _ in made_here} <= {"aten._to_copy.default", "aten.clone.default"}
        assert all(size == made.control.nbytes for _, size in made_here)
    assert rows == k_center_greedy_reference(x, 20)[0].tolist()


@pytest.mark.parametrize("name", PASSES)
def test_many_given_picks_are_met_in_several_launches(name, monkeypatch):
    x, given, enqueued = PASSES[name], torch.arange(0, 150, 3), []
    whole = CudaKCenter._refresh_all
    monkeypatch.setattr(CudaKCenter, "_refresh_all", lambda self: (enqueued.append(int(self.control[0])), whole(self)))
    expected = select(x, 20, selected=given, start=1)
    assert enqueued.pop() in (50, 51) and not enqueued
    monkeypatch.setattr(device_kcenter, "_MOST_WORK", 16 * x.numel())
    found = select(x, 20, selected=given, start=1)
    assert enqueued[:3] == [16, 32, 48] and len(enqueued) == 4
    assert found.indices.tolist() == expected.indices.tolist() and torch.equal(found.radii, expected.radii)
    assert found.indices.tolist() == k_center_greedy_reference(x, 20, selected=given, start=1)[0].tolist()
    assert found.distances == expected.distances


@pytest.mark.parametrize("block", [16, 512, 1024])
@pytest.mark.parametrize("n, d, k", [(50, 3, 4), (3000, 20, 100)])
def test_bytes_says_what_is_taken(n, d, k, block):
    made = leaves(gaussian(n, d), k, Tuning(block=block))
    assert made.block == block
    assert 0.95 * made.bytes(block) <= held(made) <= 1.05 * made.bytes(block)


def test_memory_stays_within_the_limit():
    x = gaussian(2000, 40).to(DEVICE)
    with Allocations() as seen:
        leaves(x, 50, Tuning(block=512), memory_limit=2 << 20)
    # Beside the limit: starting distances, and the sample that places the centre where there is one.
    assert 1 << 19 < seen.peak <= (2 << 20) + 2000 * 8 + 4 * 1000 * 40 * 8 + 150_000


def test_out_of_memory_makes_blocks_smaller(monkeypatch, caplog):
    x, refused, true = gaussian(120, 9), [], torch.empty

    def scarce(shape, *args, **kwargs):
        if shape == (128, 128):
            refused.append(shape)
            raise torch.OutOfMemoryError("there is no more, says the test")
        return true(shape, *args, **kwargs)

    monkeypatch.setattr(torch, "empty", scarce)
    with caplog.at_level(logging.DEBUG, "patchcore_fast.kernels"):
        result = select(x, 20, tuning=Tuning(batch=20, block=128))
    assert refused and result.indices.tolist() == k_center_greedy_reference(x, 20)[0].tolist()
    assert "k_center_greedy: out of memory with blocks of 128 candidates, now 32" in caplog.text


def test_too_many_rows_are_refused():
    x = torch.zeros(1, 1).expand((1 << 31) - 10, 1)
    job = KCenterJob("k_center_greedy", x, torch.zeros(1), None, 0, 1, Tuning(), Budget())
    with pytest.raises(ValueError, match=r"k_center_greedy: the CUDA backend takes at most \d+ rows, got 2147483638"):
        CudaKCenter(job)


def test_requires_grad_zero_tensors_and_autocast():
    x = gaussian(60, 5)
    expected = select(x, 15).indices.tolist()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        result = select(x.clone().requires_grad_(), 15)
    assert result.indices.tolist() == expected and not result.radii.requires_grad
    assert select(torch._efficientzerotensor(9, 4), 5).indices.tolist() == [0, 1, 2, 3, 4]
