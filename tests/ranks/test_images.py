"""ELFS and two-level selection over ranks: what one process finds, prunes and picks, wherever images are cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from patchcore_fast.samplers import (
    ELFSCoresetSampler,
    GreedyCoresetSampler,
    PrecomputedSampler,
    RandomSampler,
    SupportedImages,
    TwoLevelSampler,
)
from patchcore_fast.scores import Layout, support

from ..patches import fields, plant, positions
from .selections import own, parts

IMAGES, GRID = 30, (5, 6)
N = IMAGES * 30
WHERE = positions(IMAGES, GRID)
SIZES = (1, 2, 3, 4)
ELFS = {
    "contaminated": {},
    "asked": {"prune_support": "ask"},
    "a share is pruned": {"prune_support": 0.2, "settle": 0.5},
    "weights and ends": {"w_density": 1.0, "prune_hard": 0.1, "prune_easy": 0.2, "anchors": 200},
    "views": {"instability": "views", "w_unc": 1.0, "topk_pool_multiplier": 3},
    "too much is pruned": {"prune_hard": 0.49, "prune_easy": 0.49, "percentage": 0.3},
    "approximate start": {"approximate_starting_points": 7, "prune_support": False, "prune_hard": 0.1},
}


def rows(bad=(2, 9, 13), seed=0):
    x = fields(IMAGES, GRID, 16, seed)
    plant(x, GRID, list(bad))
    return x


def views_of(x):
    return x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(7))


def elfs_of(options):
    return ELFSCoresetSampler(
        **{"percentage": 0.1, "dimension_to_project_features_to": 8, "prune_support": "rule", **options}
    )


def two_level_of(kind):
    if kind == "means":
        return TwoLevelSampler(GreedyCoresetSampler(0.5, None, None), GreedyCoresetSampler(0.1))
    if kind == "precomputed":
        return TwoLevelSampler(PrecomputedSampler([7, 3, 11]), RandomSampler(0.2))
    patches = ELFSCoresetSampler(0.1, prune_support="rule") if kind == "elfs" else GreedyCoresetSampler(0.1)
    return TwoLevelSampler(SupportedImages(), patches)


def elfs(group, rank, x, counts, options, where):
    sampler = elfs_of(options)
    sampler.group = group
    mine = own(x, rank, counts)
    more = {"views": own(views_of(x), rank, counts)} if options.get("instability") == "views" else {}
    picks = sampler.select(mine, **{name: own(values, rank, counts) for name, values in where.items()}, **more)
    report = {name: value for name, value in sampler.report_.items() if name not in ("seconds", "memory")}
    return picks, sampler.radii_, sampler.kept_, sampler.scores_, sampler.pruned_, report


def elfs_alone(x, options, where):
    sampler = elfs_of(options)
    more = {"views": views_of(x)} if options.get("instability") == "views" else {}
    picks = sampler.select(x, **where, **more)
    report = {name: value for name, value in sampler.report_.items() if name not in ("seconds", "memory")}
    return picks, sampler.radii_, sampler.kept_, sampler.scores_, sampler.pruned_, report


def two_level(group, rank, x, counts, kind, where):
    sampler = two_level_of(kind)
    sampler.group = group
    picks = sampler.select(own(x, rank, counts), **{name: own(v, rank, counts) for name, v in where.items()})
    assert sampler.patch_sampler.group is None
    return picks, sampler.radii_, sampler.images_


def same(found, wanted):
    """Equal, tensors within too."""
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name in wanted:
            same(found[name], wanted[name])
    else:
        assert found == wanted


def given_as(how):
    return {"positions": {"positions": WHERE}, "image_ids": {"image_ids": WHERE[:, 0] * 3 + 5}, "nothing": {}}[how]


@pytest.mark.parametrize("name", ELFS)
@pytest.mark.filterwarnings("ignore:ELFSCoresetSampler")
def test_elfs(workers, name):
    x, where = rows(), given_as("positions")
    wanted = elfs_alone(x, ELFS[name], where)
    assert name != "contaminated" or wanted[-1]["support"]["contaminated"]
    for size in SIZES if name == "contaminated" else (3,):
        for found in workers.call(elfs, size, x, parts(N, size), ELFS[name], where):
            same(found, wanted)


@pytest.mark.parametrize("how", ["image_ids", "nothing"])
def test_elfs_finds_the_images(workers, how):
    x, where = rows(), given_as(how)
    wanted = elfs_alone(x, {}, where)
    assert wanted[-1]["support"]["layout"] == ("given" if how == "image_ids" else "inferred")
    for found in workers.call(elfs, 3, x, parts(N, 3), {}, where):
        same(found, wanted)


def test_images_in_any_order(workers):
    """Rows that are shuffled: every image lies on every rank."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    x, where = rows()[order], {"positions": WHERE[order]}
    for found in workers.call(elfs, 3, x, parts(N, 3), {}, where):
        same(found, elfs_alone(x, {}, where))


@pytest.mark.parametrize("kind", ["supported", "elfs", "means", "precomputed"])
def test_two_level(workers, kind):
    x, where = rows(), given_as("image_ids" if kind == "means" else "positions")
    sampler = two_level_of(kind)
    wanted = sampler.select(x, **where), sampler.radii_, sampler.images_
    for size in SIZES if kind == "supported" else (3,):
        for found in workers.call(two_level, size, x, parts(N, size), kind, where):
            same(found, wanted)


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(
    cuts=st.lists(st.integers(0, N), min_size=3, max_size=3).map(sorted),
    empty=st.sets(st.integers(0, 3), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
    share=st.floats(0.02, 0.6),
    name=st.sampled_from(list(ELFS)),
    kind=st.sampled_from(["supported", "elfs", "means", "precomputed"]),
)
@pytest.mark.filterwarnings("ignore:ELFSCoresetSampler")
def test_any_shards(workers, cuts, empty, seed, share, name, kind):
    """Some of them empty, whichever the sampler is."""
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, N], strict=True)]
    for rank in empty:  # the next one that is not has its rows too
        heir = next(r for r in (*range(rank, 4), *range(4)) if r not in empty)
        counts[rank], counts[heir] = 0, counts[heir] + counts[rank]
    x, options = rows(seed=seed), {"settle": 0.3, **ELFS[name], "percentage": share}
    where = given_as("positions")
    same(workers.call(elfs, 4, x, counts, options, where)[1], elfs_alone(x, options, where))
    where = given_as("image_ids" if kind == "means" else "positions")
    sampler = two_level_of(kind)
    wanted = sampler.select(x, **where), sampler.radii_, sampler.images_
    same(workers.call(two_level, 4, x, counts, kind, where)[2], wanted)


def supported(group, rank, x, counts, where):
    found = support(own(x, rank, counts), positions=own(where, rank, counts), group=group)
    return found.distance, found.image_distance, found.deviation, found.raw_deviation


def test_support(workers):
    x = rows()
    alone = support(x, positions=WHERE)
    wanted = alone.distance, alone.image_distance, alone.deviation, alone.raw_deviation
    for size in SIZES:
        for found in workers.call(supported, size, x, parts(N, size, seed=5), WHERE):
            same(found, wanted)


def layout(group, rank, ids, n):
    from patchcore_fast.kernels.ranks import Ranks

    return Layout.of("test", n, ids[rank], None, Ranks("test", group))


@pytest.mark.parametrize(
    "ids, words",
    [
        ([[1, 1], None], "image_ids must be the same on all ranks, got 'given' on rank 0 and 'none' on rank 1"),
        ([[1, 1], [1.5, 2.0]], "image_ids must be integers"),
        ([[1, 1], [1]], "image_ids must have shape"),
    ],
)
def test_a_fault_of_one_rank(workers, ids, words):
    workers.ask(layout, 2, ids, 2)
    for error in workers.answers(2):
        with pytest.raises((ValueError, TypeError, RuntimeError), match=words):
            raise error


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "pseudo"},
        {"w_repr": 1.0},
        {"instability": "noise", "w_unc": 1.0},
        {"preset": "composite", "prune_support": False},
    ],
    ids=str,
)
def test_what_selects_in_one_process_only_says_so(workers, options):
    workers.ask(elfs, 2, rows(), [500, 400], options, {})
    for error in workers.answers(2):
        with pytest.raises(ValueError, match=r"ELFSCoresetSampler: .* selects in one process only; leave it out"):
            raise error


def elfs_apart(group, rank, x, counts, options, radii, views):
    """Other options, radius and number of views on each rank."""
    sampler = elfs_of({"prune_support": False, **options[rank]})
    sampler.group, sampler.radius = group, radii[rank]
    mine = own(x, rank, counts)
    return sampler.select(mine, views=None if views[rank] is None else [views_of(mine)] * views[rank])


SEEN = {"instability": "views", "w_unc": 1.0}


@pytest.mark.parametrize(
    ("options", "radii", "views", "said"),
    [
        ([{}, {}], [None, 0.5], [None, None], "radius must be the same on all ranks, got None on rank 0 and 0.5"),
        ([{}, {}], [0.5, 0.5], [None, None], "radius goes with the greedy samplers alone, got 0.5"),
        ([{}, {}], [None, None], [None, 1], "views must be the same on all ranks, got None on rank 0 and 1 on rank 1"),
        ([SEEN, SEEN], [None, None], [1, 2], "views must be the same on all ranks, got 1 on rank 0 and 2 on rank 1"),
        ([SEEN, SEEN], [None, None], [None, None], 'views and instability="views" go together'),
        ([{}, SEEN], [None, None], [None, 1], "weights must be the same on all ranks"),
        ([{}, {"percentage": 0.2}], [None, None], [None, None], "percentage must be the same on all ranks"),
    ],
)
@pytest.mark.parametrize("counts", [[500, 400], [900, 0]], ids=str)
def test_what_differs_between_ranks_is_refused_on_all(workers, options, radii, views, said, counts):
    workers.ask(elfs_apart, 2, rows(), counts, options, radii, views)
    for error in workers.answers(2, seconds=40):
        with pytest.raises(ValueError, match=said):
            raise error


class Own:
    """Somebody's sampler, which knows no ranks."""

    def select(self, features):
        return torch.arange(3)


def with_own(group, rank):
    sampler = TwoLevelSampler(SupportedImages(), Own())
    sampler.group = group
    sampler.select(own(rows(), rank, [500, 400]), positions=own(WHERE, rank, [500, 400]))


def test_a_patch_sampler_that_knows_no_ranks(workers):
    workers.ask(with_own, 2)
    for error in workers.answers(2):
        with pytest.raises(ValueError, match="TwoLevelSampler: Own selects in one process only"):
            raise error
