"""Ranks whose rows are on devices: CUDA kernels on the emulator, Triton's in its interpreter, the driver with torch's.

Picks, radii and neighbours are those of one process.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from patchcore_fast.errors import RankError
from patchcore_fast.kernels import Tuning, backends, k_center_greedy, knn, knn_rarity
from patchcore_fast.kernels.backends.base import Backend
from patchcore_fast.kernels.backends.device.shard import shard_of

from ..cuda import emulated
from ..device.torch_kernels import TorchKCenter, look
from ..kernels.cases import awkward, gaussian, integers
from ..kernels.engines import backend_refusal
from ..triton.interpreter import quicken
from .selections import neighbours, own, parts, rarity
from .test_kcenter import check

CASES = awkward()


def shard(job, together):
    return shard_of(TorchKCenter, look, job, together)


DEVICE = Backend("device", lambda device: None, TorchKCenter, shard, backends.TORCH.knn, str)


def on(engine, path, task, group, rank, *arguments):
    """A task for workers, where the engine can be had."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "BACKENDS", (*backends.BACKENDS, DEVICE))
        if engine == "triton":
            quicken()
        if path:
            patch.setenv(emulated.VARIABLE, path)
        return task(group, rank, *arguments)


@pytest.fixture(params=["device", "triton", "cuda"])
def device(request):
    """A backend for the workers, and what has a task run on it."""
    name, path = request.param, ""
    if name == "cuda":
        if reason := emulated.missing():
            pytest.skip(reason)
        path = str(emulated.build())
    elif name == "triton" and (reason := backend_refusal("triton", "cpu")):
        pytest.skip(reason)
    return name, partial(partial, on, name, path)


def check_on(device, workers, x, k, counts, expected=None, **options):
    name, task = device
    return check(Tasks(workers, task), x, k, counts, expected, backend=name, **options)


class Tasks:
    """Workers that run each task within `on`."""

    def __init__(self, workers, task):
        self.workers, self.task = workers, task

    def call(self, function, size, *arguments):
        return self.workers.call(self.task(function), size, *arguments)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ties_and_duplicates_across_shards(workers, device, size):
    check_on(device, workers, integers(90, 3), 40, parts(90, size))
    check_on(device, workers, gaussian(24, 5).repeat(3, 1), 72, parts(72, size))


@pytest.mark.parametrize("name", ["halves", "far from the origin", "float64", "not exact in float32"])
def test_rows(workers, device, name):
    x = {
        "halves": gaussian(80, 16).half(),
        "far from the origin": gaussian(80, 5) * 1e-3 + 1e3,
        "float64": gaussian(80, 7).double() * (1 + 2**-40),
        # The frame of one rank alone would be exact, that of all is not.
        "not exact in float32": torch.cat([integers(50, 4).float(), gaussian(30, 4) * 3e3]),
    }[name]
    check_on(device, workers, x, 25, [50, 30])


def test_arguments(workers, device):
    x = gaussian(90, 6, seed=3)
    weights, initial = gaussian(90, 1, seed=4)[:, 0].abs(), gaussian(90, 1, seed=5)[:, 0].abs() * 2
    weights[::7] = 0
    check_on(device, workers, x, 20, parts(90, 3), weights=weights, initial_min_dist=initial, selected=[3, 89, 50])
    check_on(device, workers, x, 20, parts(90, 3), start=88, tuning=Tuning(batch=5, block=16, lazy=False))
    whole = k_center_greedy(x, 30)
    check_on(device, workers, x, 30, parts(90, 2), radius=float(whole.radii[17]))


def test_picks_of_other_ranks_may_outnumber_the_rows_of_one(workers, device):
    check_on(device, workers, gaussian(60, 4), 50, [58, 2])


def test_more_candidates_than_are_settled_at_a_time(workers, device):
    check_on(device, workers, gaussian(300, 4), 150, parts(300, 2), tuning=Tuning(batch=100, block=16))


@pytest.mark.parametrize("name", CASES)
def test_awkward_rows(workers, name):
    x = CASES[name].contiguous() if name in ("overlapping", "off a word") else CASES[name]
    size = (1, 3, 4)[list(CASES).index(name) % 3]
    check_on(("device", partial(partial, on, "device", "")), workers, x, min(len(x), 60), parts(len(x), size))


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes
)
@given(
    counts=st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(lambda c: sum(c) > 1),
    grid=st.integers(1, 3),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 2**31),
)
def test_any_shards(workers, counts, grid, share, seed):
    n = sum(counts)
    x = torch.randint(-grid, grid + 1, (n, 4), generator=torch.Generator().manual_seed(seed)).float() / 4
    device = "device", partial(partial, on, "device", "")
    check_on(device, workers, x, max(1, int(n * share)), counts)


def test_many_rows_of_nearly_one_key(workers):
    """More than a pass gathers: bounds that overlap are settled, all of them."""
    x = 1e3 + 1e-3 * gaussian(3000, 3)
    check_on(("device", partial(partial, on, "device", "")), workers, x, 40, [1400, 1600], tuning=Tuning(batch=16))


def test_distances_below_the_blur_are_settled_together(workers):
    x = torch.cat([torch.ones(1, 24), gaussian(600, 24) * 1e-20])
    device = "device", partial(partial, on, "device", "")
    check_on(device, workers, x, 20, [250, 351], start=0, tuning=Tuning(batch=1, block=16))


def test_neighbours_and_rarity(workers, device):
    name, task = device
    bank = integers(70, 5).float()
    query = torch.cat([bank[::5] * 1.001, bank[:3]])
    distances, rows = knn(query, bank, 4)
    asked, held = parts(len(query), 3, seed=1), parts(70, 3, seed=2)
    for replicated in (0, 1 << 30):
        found = workers.call(task(neighbours), 3, query, bank, 4, asked, held, replicated, name)
        for rank, (near, which) in enumerate(found):
            assert which.tolist() == own(rows, rank, asked).tolist() and torch.equal(near, own(distances, rank, asked))
    found = workers.call(task(rarity), 3, bank, 3, held, {"anchors": 20, "backend": name})
    assert torch.equal(torch.cat(found), knn_rarity(bank, 3, anchors=20))


def with_a_fault(group, rank, what):
    x = gaussian(40, 4)[20 * rank : 20 * rank + 20].clone()
    if rank == 1 and what == "nan":
        x[3, 2] = torch.nan
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1 and what == "memory":
            patch.setattr(TorchKCenter, "_buffers", out_of_memory)
        limit = 1 if rank == 1 and what == "limit" else None
        return k_center_greedy(x, 5, group=group, backend="device", memory_limit=limit)


def out_of_memory(*arguments):
    raise MemoryError("no room")


@pytest.mark.parametrize(
    "what, kind, words",
    [
        ("nan", ValueError, "features must be finite; 1 of 20 rows"),
        ("memory", MemoryError, "no room"),
        ("limit", ValueError, "memory_limit must lie in"),
    ],
)
def test_a_fault_of_one_rank_is_told_on_all(workers, what, kind, words):
    workers.ask(partial(on, "device", "", with_a_fault), 2, what)
    other, here = workers.answers(2)
    with pytest.raises(kind, match=words):
        raise here
    with pytest.raises(RankError, match=f"rank 1 of 2 has failed: {kind.__name__}: .*{words}"):
        raise other
