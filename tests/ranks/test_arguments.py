"""What is wrong on one rank is told on all of them, and none waits for the others."""

from __future__ import annotations

import pytest
import torch

from patchcore_fast.kernels import Tuning, k_center_greedy, knn, knn_rarity
from patchcore_fast.kernels.backends.native_library import native_refusal
from patchcore_fast.kernels.ranks import RankError

from ..kernels.cases import gaussian

X = gaussian(60, 6)


def faulty(group, rank, what):
    """A selection with a fault on rank 1."""
    x, options = X[20 * rank : 20 * rank + 20].clone(), {}
    if rank == 1:
        if what == "nan":
            x[3, 2] = torch.nan
        if what == "weights":
            options["weights"] = torch.full((20,), torch.inf)
        if what == "length":
            options["initial_min_dist"] = torch.ones(3)
        if what == "dtype":
            x = x.double()
        if what == "columns":
            x = x[:, :5]
        if what == "type":
            x = x.numpy()
        if what == "backend":
            options["backend"] = "nonsense"
        if what == "gpu backend":
            options["backend"] = "cuda"
        if what == "radius":
            options["radius"] = -1.0
        if what in ("batch", "lazy"):
            options["tuning"] = Tuning(batch=64) if what == "batch" else Tuning(lazy=False)
    elif what in ("weights", "length"):
        options["weights" if what == "weights" else "initial_min_dist"] = torch.ones(20)
    k = 4 if what == "k" and rank == 1 else 5
    selected = [rank] if what == "selected" else list(range(rank, rank + 30)) if what == "many selected" else None
    return k_center_greedy(x, k, group=group, selected=selected, **options)


@pytest.mark.parametrize(
    "what, kind, words",
    [
        ("nan", ValueError, "features must be finite; 1 of 20 rows are not finite, the first is row 3"),
        ("weights", ValueError, "weights must be finite"),
        ("length", ValueError, r"initial_min_dist must have shape \(20,\)"),
        ("type", TypeError, "features must be a torch.Tensor"),
        ("backend", ValueError, "backend must be one of"),
        ("gpu backend", ValueError, "backend 'cuda' cannot run on cpu"),
        ("radius", ValueError, "radius must be >= 0 and finite, got -1.0"),
    ],
)
def test_a_fault_of_one_rank(workers, what, kind, words):
    workers.ask(faulty, 3, what)
    found = workers.answers(3)
    assert isinstance(found[1], kind)
    with pytest.raises(kind, match=words):
        raise found[1]
    for other in (found[0], found[2]):
        with pytest.raises(RankError, match=f"rank 1 of 3 has failed: {kind.__name__}: .*({words})"):
            raise other


def test_long_lists_that_differ_are_not_printed(workers):
    workers.ask(faulty, 3, "many selected")
    for error in workers.answers(3):
        words = r"got '30 rows from 0 to 29 \(digest \w{16}\)' on rank 0 and '30 rows from 1 to 30 \(digest \w{16}\)'"
        with pytest.raises(ValueError, match=f"selected must be the same on all ranks, {words}"):
            raise error


@pytest.mark.parametrize("what", ["dtype", "columns", "k", "selected", "batch", "lazy"])
def test_what_must_be_equal(workers, what):
    workers.ask(faulty, 3, what)
    for error in workers.answers(3):
        with pytest.raises(
            ValueError, match=f"{what} must be the same on all ranks, got .* on rank 0 and .* on rank 1"
        ):
            raise error


def drawn(group, rank, of):
    """Anchors by a generator that one rank has."""
    generator = torch.Generator().manual_seed(5) if rank == of else None
    return knn_rarity(X[20 * rank : 20 * rank + 20], 3, anchors=10, generator=generator, group=group)


def test_the_draw_is_that_of_rank_0(workers):
    for of, generator in ((0, torch.Generator().manual_seed(5)), (1, None)):
        found = torch.cat(workers.call(drawn, 3, of))
        assert torch.equal(found, knn_rarity(X, 3, anchors=10, generator=generator))


def no_room(group, rank):
    """Leaves that one rank has no memory for."""
    from patchcore_fast.kernels.backends import native_backend

    shard = native_backend.NativeShard

    def made(*arguments):
        if rank == 1:
            raise MemoryError("no room")
        return shard(*arguments)

    native_backend.NativeShard = made
    try:
        return k_center_greedy(X[20 * rank : 20 * rank + 20], 5, backend="native", group=group)
    finally:
        native_backend.NativeShard = shard


@pytest.mark.skipif(native_refusal() is not None, reason="no native module")
def test_a_rank_without_memory_says_so_on_all(workers):
    workers.ask(no_room, 3)
    found = workers.answers(3)
    assert isinstance(found[1], MemoryError)
    for other in (found[0], found[2]):
        with pytest.raises(RankError, match="rank 1 of 3 has failed: MemoryError: no room"):
            raise other


def nothing(group, rank):
    return k_center_greedy(torch.empty(0, 4), 1, group=group)


def nowhere(group, rank):
    return knn(torch.ones(1, 3), torch.empty(0, 3), 1, group=group)


def search(group, rank):
    return knn(X, X, 2, group=group, precision="half" if rank else "float32")


def test_a_fault_of_one_rank_in_a_search(workers):
    workers.ask(search, 2)
    other, here = workers.answers(2)
    with pytest.raises(ValueError, match="precision must be one of"):
        raise here
    with pytest.raises(RankError, match="rank 1 of 2 has failed: ValueError: knn: precision must be one of"):
        raise other


def test_no_rows_at_all(workers):
    for function, words in ((nothing, "at least one row on one of the ranks"), (nowhere, "k must lie in 1..0")):
        workers.ask(function, 2)
        for error in workers.answers(2):
            with pytest.raises(ValueError, match=words):
                raise error


def test_the_group_itself():
    with pytest.raises(RuntimeError, match=r"group= needs torch\.distributed\.init_process_group"):
        k_center_greedy(X, 3, group=3)


@pytest.mark.parametrize(
    "radius, kind", [("1", TypeError), (True, TypeError), (-1.0, ValueError), (torch.inf, ValueError)]
)
def test_radius(radius, kind):
    with pytest.raises(kind, match="radius must be"):
        k_center_greedy(X, 3, radius=radius)
