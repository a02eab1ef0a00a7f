"""Picks and radii of several ranks are those of one process with all rows, index for index."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchcore_fast.kernels import Tuning, backends
from patchcore_fast.kernels.kcenter.reference import k_center_greedy_reference

from ..kernels.cases import awkward, gaussian, integers
from ..kernels.engines import BACKENDS
from .selections import SMALL, alone, parts, select
from .workers import SIZES

CASES = awkward()


def check(workers, x, k, counts, expected=None, **options):
    """All ranks give what one process gives; what the first of them gave."""
    found = workers.call(select, len(counts), x, k, counts, {"tuning": SMALL, **options})
    one = expected or alone(x, k, {"tuning": SMALL, **options})
    for rank, answer in enumerate(found):
        assert answer["indices"].tolist() == one.indices.tolist(), (rank, counts)
        assert torch.equal(answer["radii"], one.radii)
        assert answer["indices"].dtype == torch.int64 and answer["radii"].dtype == torch.float32
        assert (answer["passes"], answer["distances"]) == (found[0]["passes"], found[0]["distances"])
        assert answer["told"] == [] if rank else answer["told"][-1][0] == len(one.indices)
    assert found[0]["distances"] > 0 or k == 1
    return found[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_awkward_rows(workers, name, backend):
    x = CASES[name].contiguous() if name in ("overlapping", "off a word") else CASES[name]
    check(workers, x, min(len(x), 60), parts(len(x), 3), backend=backend)


@pytest.mark.thorough
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_awkward_rows_on_any_number_of_ranks(workers, name, backend):
    x = CASES[name].contiguous() if name in ("overlapping", "off a word") else CASES[name]
    for size in SIZES:
        check(workers, x, min(len(x), 60), parts(len(x), size), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_against_plain_greedy(workers, backend):
    x = integers(240, 5)
    indices, radii = k_center_greedy_reference(x, 240)
    for size in SIZES:
        found = workers.call(select, size, x, 240, parts(240, size), {"tuning": SMALL, "backend": backend})[0]
        assert found["indices"].tolist() == indices.tolist() and torch.equal(found["radii"], radii)


def test_arguments(workers):
    x = gaussian(400, 12, seed=3)
    weights, initial = gaussian(400, 1, seed=4)[:, 0].abs(), gaussian(400, 1, seed=5)[:, 0].abs() * 4
    weights[::7] = 0
    for options in (
        {"start": 399},
        {"start": 7, "initial_min_dist": initial},
        {"initial_min_dist": initial},
        {"weights": weights},
        {"weights": weights * 1e-200},
        {"weights": weights, "initial_min_dist": initial, "selected": torch.tensor([3, 399, 200])},
        {"selected": torch.tensor([390, 5, 6, 7])},
        {"selected": [0], "start": 17},
        {"seed": 11},
    ):
        check(workers, x, 50, parts(400, 3), **options)


def test_distances_from_the_outset_may_be_infinite_for_some(workers):
    x, initial = gaussian(200, 6), gaussian(200, 1)[:, 0].abs()
    initial[50:120] = torch.inf
    check(workers, x, 90, parts(200, 3), initial_min_dist=initial)


def test_duplicates_across_shards(workers):
    x = gaussian(40, 8).repeat(6, 1)
    for size in SIZES:
        check(workers, x, 240, parts(240, size))


@pytest.mark.parametrize("tuning", [Tuning(), Tuning(batch=5, block=1), Tuning(lazy=False), Tuning(block=300)])
def test_tuning_changes_nothing(workers, tuning):
    x = integers(500, 4)
    check(workers, x, 120, parts(500, 4), alone(x, 120, {}), tuning=tuning)


def test_radius_ends_where_one_process_ends(workers):
    x, weights = gaussian(300, 10, seed=8), gaussian(300, 1, seed=9)[:, 0].abs() * 100
    whole = alone(x, 200, {})
    radius = float(whole.radii[70])
    for more in ({}, {"weights": weights}):
        for stop in (radius, radius * 1.0001, radius * 0.9999, 0.0, 1e9):
            check(workers, x, 200, parts(300, 3), radius=stop, **more)
    assert len(alone(x, 200, {"radius": radius}).indices) in (70, 71)


def test_where_auto_finds_different_backends(workers):
    if len(BACKENDS) == 1:
        pytest.skip("the native engine is not built")
    x = gaussian(300, 20)
    one = alone(x, 80, {})
    for answer in workers.call(select_without_native, 2, x, 80, [140, 160], {"tuning": SMALL}):
        assert answer["indices"].tolist() == one.indices.tolist()
    workers.ask(select_by_different_names, 2, x, 80, [140, 160], {"tuning": SMALL})
    for error in workers.answers(2):
        with pytest.raises(
            ValueError, match="backend must be the same on all ranks, got 'torch' on rank 0 and 'native'"
        ):
            raise error


def select_without_native(group, rank, *arguments):
    """As where rank 1 has no native engine."""
    if rank == 0:
        return select(group, rank, *arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "BACKENDS", tuple(b for b in backends.BACKENDS if b.name != "native"))
        return select(group, rank, *arguments)


def select_by_different_names(group, rank, x, k, counts, options):
    return select(group, rank, x, k, counts, {**options, "backend": BACKENDS[rank]})


def test_distances_below_the_blur_are_settled_together(workers):
    x = torch.cat([torch.ones(1, 24), gaussian(600, 24) * 1e-20])
    options = {"tuning": Tuning(batch=1, block=2), "start": 0, "backend": "torch"}
    for told in workers.call(select, 2, x, 30, [250, 351], options):
        assert told["indices"].tolist() == alone(x, 30, options).indices.tolist() and told["passes"] < 200


def test_candidates_left_out_that_settle_below_the_edge(workers):
    """Duplicates of picks: more than are gathered settle to 0 from bounds above the edge, others wait below it."""
    x = torch.randint(-1, 2, (104, 4), generator=torch.Generator().manual_seed(1)).float() / 4
    for backend in BACKENDS:
        for size in SIZES:
            check(workers, x, 104, parts(104, size), backend=backend)
        check(workers, x, 104, [64, 40], backend=backend)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(lambda c: sum(c) > 1),
    d=st.integers(1, 9),
    grid=st.integers(1, 3),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 2**31),
)
def test_any_shards(workers, counts, d, grid, share, seed):
    n = sum(counts)
    x = torch.randint(-grid, grid + 1, (n, d), generator=torch.Generator().manual_seed(seed)).float() / 4
    check(workers, x, max(1, int(n * share)), counts)
