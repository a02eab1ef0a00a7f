"""What the CUDA k-center leaves do besides picking: memory, waits for the device, refusals.

The driver is the Triton leaves' too (kernels/backends/device), and tests/triton looks at more of it.
"""

from __future__ import annotations

import logging

import pytest
import torch

from patchcore_fast.kernels import Tuning
from patchcore_fast.kernels.backends.base import KCenterJob
from patchcore_fast.kernels.backends.cuda_kernels.kcenter import CudaKCenter
from patchcore_fast.kernels.backends.device import kcenter as device_kcenter
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian, integers
from ..kernels.watch import Allocations, held, waits
from .kcenter_runs import DEVICE, engine, leaves, select  # noqa: F401

pytestmark = pytest.mark.usefixtures("engine")
PASSES = {"gaussian": gaussian(150, 12), "integers": integers(150, 2), "crowded": gaussian(2, 5).repeat(100, 1)}


@pytest.mark.parametrize("name", PASSES)
def test_the_host_waits_once_a_pass_and_a_pass_allocates_nothing(name, monkeypatch):
    x = PASSES[name]
    made, rows = leaves(x, 20, Tuning(batch=16, block=16)), [0]
    while len(rows) < 20:
        crowded = made._exact_cuts > 0
        with waits(monkeypatch) as seen, Allocations() as allocated:
            rows += made.advance(20 - len(rows)).rows
        assert seen == ["cpu"]
        made_here = [(name, size) for name, size in allocated.made if size > 8 * crowded]
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


def test_memory_limit():
    x = gaussian(60, 8)
    expected = select(x, 25).indices.tolist()
    made = leaves(x, 25, Tuning(block=1024), memory_limit=2 << 20)
    assert made.block == 256 and made.bytes(256) <= 2 << 20 < made.bytes(512)
    assert select(x, 25, tuning=Tuning(batch=20, block=512), memory_limit=2 << 20).indices.tolist() == expected
    with pytest.raises(ValueError, match=r"80000 rows and 25 picks need \d+ bytes beyond .* memory_limit is 2097152"):
        select(torch.zeros(1, 8).expand(80_000, 8), 25, memory_limit=2 << 20)


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


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_unfinite_rows_are_refused(value):
    x = gaussian(30, 4)
    x[7, 2], x[20, 1] = value, torch.nan
    with pytest.raises(ValueError, match=r"k_center_greedy: features must be finite; 2 of 30 rows .* first is row 7"):
        select(x, 5)


def test_too_many_rows_are_refused():
    x = torch.zeros(1, 1).expand((1 << 31) - 10, 1)
    job = KCenterJob("k_center_greedy", x, torch.zeros(1), None, 0, 1, Tuning(), Budget())
    with pytest.raises(ValueError, match=r"k_center_greedy: the CUDA backend takes at most \d+ rows, got 2147483638"):
        CudaKCenter(job)


def test_arguments_are_not_changed():
    given = [gaussian(60, 8), torch.full((60,), 2.0, dtype=torch.float64), torch.arange(60).double(), torch.arange(9)]
    copies = [v.clone() for v in given]
    select(given[0], 20, initial_min_dist=given[1], weights=given[2], selected=given[3])
    assert all(torch.equal(v, copy) for v, copy in zip(given, copies, strict=True))


def test_requires_grad_zero_tensors_and_autocast():
    x = gaussian(60, 5)
    expected = select(x, 15).indices.tolist()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        result = select(x.clone().requires_grad_(), 15)
    assert result.indices.tolist() == expected and not result.radii.requires_grad
    assert select(torch._efficientzerotensor(9, 4), 5).indices.tolist() == [0, 1, 2, 3, 4]
