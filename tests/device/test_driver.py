"""The driver of device leaves: passes over the rows, launches, waits of the host; with the kernels in torch, so that
sizes are those of use."""

from itertools import groupby

import pytest
import torch

from benchmarks.harness.cases import CASES
from patchcore_fast.kernels import Tuning, k_center_greedy
from patchcore_fast.kernels.backends.base import PATIENCE, KCenterJob
from patchcore_fast.kernels.backends.device import kcenter as device_kcenter
from patchcore_fast.kernels.backends.device.layout import LEVELS
from patchcore_fast.kernels.exact import root
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference
from patchcore_fast.kernels.kcenter.traversal import Traversal
from patchcore_fast.kernels.tuning import Budget

from ..kernels.cases import gaussian, integers
from .torch_kernels import LAUNCHES, TorchKCenter

N, D = 163_840, 128


class Run:
    """Picks, and what they took."""

    def __init__(self, x, k, tuning=None, kernels=TorchKCenter, weight=None):
        initial = torch.full((x.shape[0],), torch.inf, dtype=torch.float64)
        job = KCenterJob("test", x, initial, weight, 0, k, tuning or Tuning(), Budget(), started=False)
        self.leaves, self.calls = kernels(job), []
        self.traversal = Traversal("test", self.leaves, k)
        self.rows, self.squared = self.traversal.run((0, torch.inf), lambda done, total: self.calls.append(done))
        self.passes, self.waits, self.launches = self.traversal.passes, len(self.calls), self.leaves.launches


def features(name):
    return torch.cat([torch.from_numpy(part) for part in CASES[name].parts(N, D, 0)])[:N]


# Passes, waits and launches at most; measured: 10, 20, 29 and 135 passes at 1 %, 62 of low-rank rows at 10 %.
@pytest.mark.parametrize(
    "name, ratio, passes, waits",
    [
        pytest.param("gaussian", 0.01, 10, 4, marks=pytest.mark.thorough),
        pytest.param("clustered", 0.01, 22, 6, marks=pytest.mark.thorough),
        ("low-rank", 0.01, 32, 8),
        pytest.param("duplicates", 0.01, 140, 25, marks=pytest.mark.thorough),
        pytest.param("gaussian", 0.1, 60, 15, marks=pytest.mark.thorough),
        pytest.param("clustered", 0.1, 100, 25, marks=pytest.mark.thorough),
        pytest.param("low-rank", 0.1, 65, 15, marks=pytest.mark.thorough),
    ],
)
def test_passes_waits_and_launches_at_full_size(name, ratio, passes, waits):
    x, k = features(name), int(ratio * N)
    run = Run(x, k)
    expected = k_center_greedy(x, k, start=0, backend="native")
    assert torch.equal(run.rows, expected.indices) and torch.equal(root(run.squared).float(), expected.radii)
    assert run.passes <= passes and run.waits <= waits
    # Passes that were enqueued ahead and found all picks made are few.
    assert run.launches <= (LAUNCHES + 2) * (run.passes + 8) if name != "duplicates" else (LAUNCHES + 9) * passes


CASES_HERE = {
    "gaussian": lambda: gaussian(900, 6),
    "clusters": lambda: gaussian(13, 5).repeat(70, 1) + 1e-3 * gaussian(910, 5, 1),
    "integers": lambda: integers(900, 2),
    "one row": lambda: gaussian(1, 6).repeat(900, 1),
    "three rows": lambda: gaussian(3, 6).repeat(300, 1),
    "far": lambda: gaussian(900, 12).double() + 1e6,
}


@pytest.mark.parametrize("name", CASES_HERE)
@pytest.mark.parametrize("block", [16, 64])
def test_picks_are_greedys_where_lists_overflow(name, block, monkeypatch):
    monkeypatch.setattr(device_kcenter, "_MOST_WANTED", 2)  # lists are then short
    x = CASES_HERE[name]()
    picks, radii = k_center_greedy_reference(x, 60, start=0)
    run = Run(x, 60, Tuning(block=block))
    assert torch.equal(run.rows, picks) and torch.equal(root(run.squared).float(), radii)


def test_weights():
    x, weight = gaussian(900, 4), torch.arange(900.0, dtype=torch.float64) % 7
    picks, _ = k_center_greedy_reference(x, 50, start=0, weights=weight.sqrt())
    assert Run(x, 50, Tuning(block=16), weight=weight).rows.tolist() == picks.tolist()


def test_crowded_rows_get_exact_cuts_and_others_do_not():
    def levels(x):
        class Noted(TorchKCenter):
            asked = []

            def _enqueue(self, levels):
                self.asked.append(levels)
                super()._enqueue(levels)

        Run(x, 40, Tuning(block=16), kernels=Noted)
        return Noted.asked

    assert set(levels(gaussian(2000, 9))) == {2}
    crowded = levels(gaussian(3, 9).repeat(700, 1))
    assert crowded[0] == 2 and crowded.count(len(LEVELS)) > len(crowded) / 2


def test_more_passes_are_enqueued_from_wait_to_wait_but_not_too_much_work(monkeypatch):
    x = gaussian(4000, 9)

    class Noted(TorchKCenter):
        ahead = []

        def _passes_ahead(self, quota):
            found = super()._passes_ahead(quota)
            self.ahead.append(found)
            return found

    free = Run(x, 900, Tuning(block=16, batch=16), kernels=Noted)
    assert Noted.ahead[:3] == [2, 4, 8] and max(Noted.ahead) == 8 and free.waits < free.passes / 4
    monkeypatch.setattr(device_kcenter, "_WORK_AHEAD", 1)
    Noted.ahead.clear()
    careful = Run(x, 900, Tuning(block=16, batch=16), kernels=Noted)
    assert set(Noted.ahead[1:]) == {1} and careful.rows.tolist() == free.rows.tolist()


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_distances_below_the_blur_are_settled_together(weighted, lazy, monkeypatch):
    """A pass that settled its own candidates only would find that any other row may be farther, hundreds of times."""
    monkeypatch.setattr(device_kcenter, "_SETTLED", 700)  # in three parts
    x = torch.cat([torch.ones(1, 24), gaussian(1500, 24) * 1e-20])
    weight = torch.arange(1501.0, dtype=torch.float64) % 3 if weighted else None
    run = Run(x, 20, Tuning(batch=2, block=16, lazy=lazy), weight=weight)
    picks, radii = k_center_greedy_reference(x, 20, start=0, weights=None if weight is None else weight.sqrt())
    assert torch.equal(run.rows, picks) and torch.equal(root(run.squared).float(), radii)
    # Exact bounds give a pick at once: no more waits without one than passes until then, and one that made the last.
    assert max(len(list(same)) for _, same in groupby(run.calls)) <= PATIENCE + 1


def test_bounds_are_not_settled_apart_while_passes_pick(monkeypatch):
    asked = []
    monkeypatch.setattr(TorchKCenter, "settle_all", lambda leaves: asked.append(leaves.count))
    Run(gaussian(2000, 9), 200, Tuning(block=16))
    assert asked == []


def test_passes_that_never_pick_are_an_error():
    class Broken(TorchKCenter):
        def _enqueue(self, levels):
            before = self.control.clone()
            super()._enqueue(levels)
            self.control[0] = before[0]  # the count does not move, as where a kernel did not run

    with pytest.raises(
        RuntimeError, match=r"test: 20\d passes in a row made no pick, 1 of 9 are made: control count 1,"
    ):
        Run(gaussian(300, 5), 9, kernels=Broken)
