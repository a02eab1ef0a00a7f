"""Tests of k-center leaves that tests/cuda and tests/triton both take over.

`room` is the file that did, with its `check` or `select` and `leaves`; Leaves its class of leaves.
"""

import pytest
import torch

from patchcore_fast.kernels import Tuning
from patchcore_fast.kernels.backends.device import kcenter as device_kcenter
from patchcore_fast.kernels.backends.device.layout import FOUND

from .cases import gaussian, integers

PASSES = {"gaussian": gaussian(150, 12), "integers": integers(150, 2), "crowded": gaussian(2, 5).repeat(100, 1)}
TUNINGS = [Tuning(batch=1, block=1), Tuning(batch=1000, block=16), Tuning(batch=7, block=17, lazy=False)]
TUNINGS += [Tuning(batch=30, block=31), Tuning(batch=16, block=32, lazy=False), Tuning(block=64), Tuning()]


def views(x):
    """Layouts of [1500, 20]."""
    strided = x.flatten().as_strided((90, 7), (3, 2))
    return x[:90, ::3], x[::16][:, 3:], x[:40].t(), x[:1].expand(30, 20), strided


def options(x):
    n, g = x.shape[0], torch.Generator().manual_seed(5)
    weights = torch.rand(n, generator=g)
    weights[::7] = 0
    size = x.double().sub(x[:1].double()).square().sum(1).median().sqrt()
    chosen = {
        "weights": weights,
        "initial_min_dist": torch.rand(n, generator=g, dtype=torch.float64) * 1.5 * size,
        "selected": torch.randperm(n, generator=g)[: n // 8],
    }
    chosen["initial_min_dist"][5:9] = torch.inf
    return chosen | {"start": int((~torch.isin(torch.arange(n), chosen["selected"])).nonzero()[3])}


@pytest.mark.parametrize(
    "n, distinct, most",
    [
        (200, 1, 64),
        (200, 1, 2),
        pytest.param(420, 3, 64, marks=pytest.mark.thorough),
        pytest.param(300, 12, 64, marks=pytest.mark.thorough),
    ],
)
def test_more_candidates_than_there_is_room_for(n, distinct, most, room, monkeypatch):
    crowded, full, whole = [], [], room.Leaves._enqueue

    def noted(self, levels):
        whole(self, levels)
        crowded.append(int(self.control[FOUND]) > self.room)
        full.append(int(self.control[FOUND]) > self.listed)

    monkeypatch.setattr(room.Leaves, "_enqueue", noted)
    monkeypatch.setattr(device_kcenter, "_MOST_WANTED", most)
    x = gaussian(distinct, 6).repeat(-(-n // distinct), 1)[:n]
    room.check(x, distinct + 4, Tuning(batch=16, block=16), key=("crowded", n, distinct))
    assert any(crowded) and any(full) == (most == 2)  # rooms are of 128, lists of 256 and more or of 128
    room.check((x * 8).round(), 16, Tuning(batch=16, block=16), key=("crowded integers", n, distinct))


def test_distances_below_the_blur_are_settled_together(room):
    """Settled candidate by candidate, they would take more passes without a pick than the driver lets pass."""
    x = torch.cat([torch.ones(1, 24), gaussian(600, 24) * 1e-20])
    room.check(x, 5, Tuning(batch=1, block=16), key=("blur",), start=0)


@pytest.mark.parametrize(
    "weights", [torch.zeros(40), torch.tensor([1e300] * 39 + [0.0], dtype=torch.float64)], ids=["0", "1e300"]
)
def test_extreme_weights(weights, room):
    room.check(gaussian(40, 6), 40, weights=weights)
    room.check(gaussian(40, 6), 10, weights=weights, initial_min_dist=torch.full((40,), torch.inf))


def test_more_picks_than_distinct_rows_with_weights(room):
    weights = torch.arange(200.0) % 5
    room.check(gaussian(7, 6).repeat(29, 1)[:200], 20, Tuning(batch=16, block=16), weights=weights)


def test_photographs(photographs, room):
    lazy, eager = (
        room.check(photographs, 30, Tuning(batch=48, block=32, lazy=lazy), start=0, key=("photographs",))
        for lazy in (True, False)
    )
    assert max(lazy.passes, eager.passes) <= 10  # for 29 picks
    assert lazy.distances < eager.distances


def test_memory_limit(room):
    x = gaussian(60, 8)
    expected = room.select(x, 25).indices.tolist()
    made = room.leaves(x, 25, Tuning(block=1024), memory_limit=2 << 20)
    assert made.block == 256 and made.bytes(256) <= 2 << 20 < made.bytes(512)
    assert room.select(x, 25, tuning=Tuning(batch=20, block=512), memory_limit=2 << 20).indices.tolist() == expected
    large, needed = torch.zeros(1, 8).expand(80_000, 8), r"80000 rows and 25 picks need \d+ bytes beyond "
    with pytest.raises(ValueError, match=f"k_center_greedy: {needed}.* memory_limit is 2097152"):
        room.select(large, 25, memory_limit=2 << 20)
    with pytest.raises(ValueError, match="k_center_greedy: memory_limit must lie in"):
        room.select(x, 25, memory_limit=1000)


def test_arguments_are_not_changed(room):
    given = [gaussian(60, 8), torch.full((60,), 2.0, dtype=torch.float64), torch.arange(60).double(), torch.arange(9)]
    given = [v.to(room.DEVICE) for v in given]
    copies = [v.clone() for v in given]
    room.select(given[0], 20, initial_min_dist=given[1], weights=given[2], selected=given[3])
    assert all(torch.equal(v, copy) for v, copy in zip(given, copies, strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_unfinite_rows_are_refused(value, room):
    x = gaussian(30, 4)
    x[7, 2], x[20, 1] = value, torch.nan
    with pytest.raises(ValueError, match=r"k_center_greedy: features must be finite; 2 of 30 rows .* first is row 7"):
        room.select(x, 5)
