"""What the Triton k-center leaves do besides picking: memory, waits for the device, progress."""

import logging
import warnings

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")

from patchcore_fast.kernels import Tuning, k_center_greedy
from patchcore_fast.kernels.backends.base import KCenterJob
from patchcore_fast.kernels.backends.device import kcenter as device_kcenter
from patchcore_fast.kernels.backends.triton_kernels import kcenter
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

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: its memory, its waits")
SMALL = Tuning(batch=20, block=16)


def select(x, k, **options):
    return k_center_greedy(x.to(DEVICE), k, backend="triton", **{"tuning": SMALL, **options})


def leaves(x, k, tuning=SMALL, **budget):
    """Leaves with a first pick, as the driver makes them."""
    x = x.to(DEVICE)
    initial = torch.full((x.shape[0],), torch.inf, dtype=torch.float64, device=DEVICE)
    made = kcenter.TritonKCenter(KCenterJob("test", x, initial, None, 0, k, tuning, Budget(**budget)))
    made.append(torch.tensor([0], device=DEVICE))
    return made


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
def test_the_host_waits_once_for_some_passes_and_a_pass_allocates_nothing(name, lazy, monkeypatch):
    x = PASSES[name]
    made, rows = leaves(x, 20, Tuning(batch=16, block=16, lazy=lazy)), [0]
    while len(rows) < 20:
        with waits(monkeypatch) as seen, Allocations() as allocated:
            found = made.advance(20 - len(rows))
        rows += found.rows.tolist()
        assert seen == ["cpu"] and found.passes >= 1
        made_here = [(name, size) for name, size in allocated.made if size]
        assert {name for name, _ in made_here} <= {"aten._to_copy.default", "aten.clone.default"}
        assert all(size == made.control.nbytes for _, size in made_here)
    assert rows == k_center_greedy_reference(x, 20)[0].tolist()


@pytest.mark.parametrize("block", [16, 64, 512, 1024])
@pytest.mark.parametrize("n, d, k", [(50, 3, 4), (3000, 20, 100)])
def test_bytes_says_what_is_taken(n, d, k, block):
    made = leaves(gaussian(n, d), k, Tuning(block=block))
    assert made.block == block
    assert 0.95 * made.bytes(block) <= held(made) <= 1.05 * made.bytes(block)


def test_many_given_picks_are_met_in_several_launches(monkeypatch):
    x, given, enqueued = gaussian(150, 12), torch.arange(0, 150, 3), []
    whole = kcenter.TritonKCenter._refresh_all
    monkeypatch.setattr(kcenter.TritonKCenter, "_refresh_all", lambda self: (enqueued.append(1), whole(self)))
    monkeypatch.setattr(device_kcenter, "_MOST_WORK", 16 * x.numel())
    found = select(x, 20, selected=given, start=1).indices.tolist()
    assert found == k_center_greedy_reference(x, 20, selected=given, start=1)[0].tolist() and len(enqueued) == 4


def test_memory_stays_within_the_limit():
    x = gaussian(2000, 40).to(DEVICE)
    with Allocations() as seen:
        made = leaves(x, 50, Tuning(block=512), memory_limit=2 << 20)
    assert made.block == 256
    # Beside the limit: starting distances, and the sample that places the centre.
    assert 1 << 19 < seen.peak <= (2 << 20) + 2000 * 8 + 4 * 1000 * 40 * 8 + 150_000


def test_nothing_is_rows_by_picks():
    with Allocations() as seen:
        select(gaussian(1200, 2), 60)
    assert 0 < max(size for _, size in seen.made) < 1200 * 60 * 4 / 3


@pytest.mark.parametrize("where", ["empty", "full"])
def test_out_of_memory_makes_blocks_smaller(where, monkeypatch, caplog):
    x, refused, true = gaussian(120, 9), [], getattr(torch, where)
    expected = k_center_greedy_reference(x, 20)

    def scarce(shape, *args, **kwargs):
        # The first table of pairs; or a vector over the rows, once.
        if (shape == (128, 128)) if where == "empty" else (shape == (120,) and kwargs.get("dtype") == torch.float32):
            refused.append(shape)
            if len(refused) == 1:
                raise torch.OutOfMemoryError("there is no more, says the test")
        return true(shape, *args, **kwargs)

    monkeypatch.setattr(torch, where, scarce)
    with caplog.at_level(logging.DEBUG, "patchcore_fast.kernels"):
        result = select(x, 20, tuning=Tuning(batch=20, block=128))
    assert refused and result.indices.tolist() == expected[0].tolist()
    assert torch.equal(result.radii.cpu(), expected[1])
    assert "k_center_greedy: out of memory with blocks of 128 candidates, now 32" in caplog.text


def test_out_of_memory_twice_is_an_error(monkeypatch):
    def none(self, block):
        raise torch.OutOfMemoryError("there is no more, says the test")

    monkeypatch.setattr(kcenter.TritonKCenter, "_buffers", none)
    with pytest.raises(torch.OutOfMemoryError, match="says the test"):
        select(gaussian(40, 5), 9)


def test_progress_after_every_wait():
    calls = []
    result = select(gaussian(90, 6), 25, progress=lambda *c: calls.append(c), tuning=Tuning(batch=8, block=16))
    done = [d for d, _ in calls]
    assert 1 < len(calls) <= result.passes and done == sorted(done) and calls[-1] == (25, 25)


def test_an_exception_in_progress_ends_the_run():
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        select(gaussian(90, 6), 60, progress=stop, tuning=Tuning(batch=8, block=16))
    assert len(calls) == 2
    assert select(gaussian(90, 6), 9).indices.tolist() == k_center_greedy_reference(gaussian(90, 6), 9)[0].tolist()


def test_too_many_rows_are_refused():
    x = torch.zeros(1, 1).expand((1 << 31) - 10, 1)
    with pytest.raises(ValueError, match=r"k_center_greedy: the Triton backend takes at most \d+ rows, got 2147483638"):
        job = KCenterJob("k_center_greedy", x, torch.zeros(1), None, 0, 1, Tuning(), Budget())
        kcenter.TritonKCenter(job)


def test_default_device_and_dtype_do_not_reach_the_picks():
    expected = select(gaussian(60, 5), 15).indices.tolist()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = select(gaussian_on_cpu(), 15)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.indices.tolist() == expected


def gaussian_on_cpu():
    return torch.randn(60, 5, generator=torch.Generator("cpu").manual_seed(0), device="cpu", dtype=torch.float32)


def test_requires_grad_and_autocast():
    x = gaussian(60, 5)
    expected = select(x, 15).indices.tolist()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        result = select(x.clone().requires_grad_(), 15)
    assert result.indices.tolist() == expected and not result.radii.requires_grad


@CUDA
@pytest.mark.parametrize("graph", [False, True], ids=["launches", "graph"])
def test_a_pass_takes_no_device_memory_and_waits_once(graph):
    made, rows, passes = leaves(gaussian(20_000, 40), 1000, Tuning(batch=100, block=64, graph=graph)), 1, 0
    while rows < 1000:
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = made.advance(1000 - rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        rows, passes = rows + len(found.rows), passes + found.passes
        if passes > 3:  # kernels are loaded, and the graph is recorded
            assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
            assert len([w for w in caught if "synchroniz" in str(w.message)]) <= 1
    assert passes > 5
