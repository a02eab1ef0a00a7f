"""Whether answers are right: traces of picks, neighbours, and what is not exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.harness.check import Neighbours, Trace, neighbour_error
from benchmarks.harness.providers import Provider
from benchmarks.harness.runs import Row
from benchmarks.speed import kcenter, knn
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.kernels.kcenter.trace import greedy_shortfall
from patchcore_fast.kernels.knn.reference import knn_reference


def test_trace_agrees_with_the_other_checker() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(700, 9, generator=generator)
    picks = k_center_greedy(x, 300, start=5).indices
    trace = Trace(x)
    trace.rows = 100  # several blocks of rows
    wrong = picks.clone()
    wrong[200] = next(i for i in range(700) if i not in picks)
    for sequence in (picks, wrong, picks[:150], torch.arange(40)):
        assert trace.shortfall(sequence) == pytest.approx(greedy_shortfall(x, sequence), abs=1e-9)
        assert trace.shortfall(sequence) == Trace(x).shortfall(sequence)
    assert trace.shortfall(picks) < 1e-9 < 1e-3 < trace.shortfall(wrong)
    assert trace.shortfall([0, 1, 1]) > 0.99  # a row twice
    with pytest.raises(ValueError, match=r"row numbers in 0\.\.699"):
        trace.shortfall([700])


def test_trace_with_initial_distances() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 5, generator=generator)
    initial = torch.rand(400, generator=generator) + 0.5
    picks = k_center_greedy(x, 60, initial_min_dist=initial).indices
    assert Trace(x, initial).shortfall(picks) < 1e-9
    assert Trace(x).shortfall(picks) > 1e-3  # by plain distances they are not greedy
    assert Trace(x, initial).shortfall(picks.flip(0)) > 1e-3


def test_trace_where_all_rows_are_taken_up() -> None:
    x = torch.randn(4, 6).repeat(10, 1)
    assert Trace(x).shortfall(k_center_greedy(x, 12).indices) <= 1e-5


def test_neighbour_error() -> None:
    random = np.random.default_rng(0)
    bank, query = (random.standard_normal((n, 4)).astype(np.float32) for n in (300, 20))
    true = ((query[:, None].astype(float) - bank) ** 2).sum(2).argsort(1)
    assert neighbour_error(query, bank, true[:, :3]) == 0.0
    assert neighbour_error(query, bank, true[:, 1:4]) > 1e-3
    assert neighbour_error(query, bank, true[:, [0, 0, 1]]) == np.inf
    with pytest.raises(ValueError, match=r"rows in 0\.\.299"):
        neighbour_error(query, bank, np.full((20, 1), 300))


def crowd(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), np.float32)


def test_a_radius_is_judged() -> None:
    x = crowd(600, 4)
    exact = k_center_greedy(torch.from_numpy(x), 40, start=0).indices.numpy()
    provider = Provider("p", "reduced tf32", "", lambda *a: None, judged="radius", tolerance=0.01)
    other = exact.copy()
    other[[20, 21]] = other[[21, 20]]  # another order, the same radius
    twice = exact.copy()
    twice[-1] = twice[0]
    judge = kcenter.Judge(x, "cpu", None)
    found = {}
    for name, picks in {"exact": exact, "other": other, "twice": twice, "poor": np.arange(40)}.items():
        found[name] = row = Row("p", "reduced tf32", 40, k_timed=40)
        judge.judge(row, picks, None, provider)
        assert row.facts["judged"] == "covering radius"
    assert found["exact"].error == 0.0 and found["exact"].leading == 40
    assert found["other"].status == "ok" and found["other"].leading == 20 and found["other"].error < 1e-12
    assert found["poor"].status == "wrong" and found["poor"].error > 0.1 and "covering radius" in found["poor"].message
    assert found["twice"].status == "wrong" and found["twice"].error == float("inf")


def test_on_a_device_the_picks_are_those_of_the_cpu() -> None:
    """The arithmetic is that of the CPU here; only what is asked of the picks is the device's."""
    judge = kcenter.Judge(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), "cpu", None)
    judge.device = "cuda"
    for name, family in (("patchcore_fast", "ours"), ("gemv loop", "loop")):
        right, tied = (Row(name, family, 4, k_timed=4) for _ in range(2))
        judge.judge(right, np.array([0, 3, 1, 2]), None, Provider(name, family, "", lambda *a: None))
        judge.judge(tied, np.array([0, 3, 2, 1]), None, Provider(name, family, "", lambda *a: None))
        assert right.status == "ok" and right.leading == right.facts["compared"] == 4
        assert (tied.status == "wrong") == (family == "ours") and tied.leading == 2 and tied.error < 1e-12
        assert tied.message == ("pick 2 is not that of the CPU engine" if family == "ours" else "")


def test_searches_without_a_certificate_and_products_are_judged() -> None:
    query, bank = crowd(60, 8), crowd(500, 8, 1)
    order = knn_reference(torch.from_numpy(query), torch.from_numpy(bank), 4)[1].numpy()
    true = Neighbours(query, bank, 4, 60)

    def judged(answer: dict[str, np.ndarray], judge: str, tolerance: float) -> Row:
        row = Row("p", "p", 3)
        knn.judge(row, answer, true, Provider("p", "p", "", lambda *a: None, judged=judge, tolerance=tolerance))
        return row

    right, second = judged({"rows": order[:, :3]}, "slack", 1e-4), judged({"rows": order[:, 1:]}, "slack", 0.5)
    assert right.status == "ok" and right.error == 0.0 and right.facts["recall"] == 1.0
    assert second.status == "ok" and 0 < second.error < 0.5 and second.facts["recall"] == pytest.approx(2 / 3)
    assert judged({"rows": order[:, 1:]}, "slack", 1e-4).status == "wrong"
    assert judged({"rows": order[:, [0, 0, 1]]}, "slack", 0.5).status == "wrong"
    which = np.array([0, 7, 30])
    product = query[which] @ bank.T
    assert judged({"rows": which, "product": product}, "product", 1e-5).status == "ok"
    for bad in (product * np.float32(1.01), product[:, :-1], np.full_like(product, np.nan)):
        row = judged({"rows": which, "product": bad}, "product", 1e-5)
        assert row.status == "wrong" and "the product is off" in row.message
