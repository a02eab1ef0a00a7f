"""Every setting that differs once, in an order of its own."""

from __future__ import annotations

import pytest

from patchcore_fast.experiments.combinations import NOISE_STD, grid, steps

WHOLE = ((-1.0, 0.0, 0.5, 1.0), (10, 30, 100), (0, 1, 2), ("composite", "diversity"))


def test_the_whole_grid_has_every_composite_that_differs_once():
    plan, asked = grid(*WHOLE, [0.1], [0])
    # Anchors matter with a weight of the density (3 of 4), copies (2 kinds) with one of the instability, the pool with
    # any: [4 r x (1 + 3 x 3) d x (1 + 3 x 2) u - 1] x 2 + 1.
    assert asked == 4**3 * 3 * 3 * 2
    assert len(plan) - 2 == (4 * 10 * 7 - 1) * 2 + 1
    assert [c.sampler for c in plan[:2]] == ["greedy", "random"] and {c.sampler for c in plan[2:]} == {"composite"}
    assert len({c.key for c in plan}) == len(plan)
    for c in plan[2:]:
        o = c.options
        assert o["w_density"] or o["density_subsample"] == 10
        assert bool(o["w_unc"]) == bool(o["noise_T"]) and o["noise_std"] == NOISE_STD
    nothing = [c for c in plan[2:] if not any(c.options[w] for w in ("w_repr", "w_density", "w_unc"))]
    assert len(nothing) == 1


def test_a_sample_is_the_same_for_all_ratios_and_seeds_and_in_the_order_of_the_grid():
    plan, _ = grid(*WHOLE, [0.1, 0.2], [0, 7], limit=5, seed=3)
    parts = [plan[i : i + 7] for i in range(0, 28, 7)]
    assert [(p[0].ratio, p[0].seed) for p in parts] == [(0.1, 0), (0.1, 7), (0.2, 0), (0.2, 7)]
    assert len({tuple(c.name for c in p) for p in parts}) == 1
    whole = [c.name for c in grid(*WHOLE, [0.1], [0])[0]]
    places = [whole.index(c.name) for c in parts[0]]
    assert places == sorted(places)
    assert grid(*WHOLE, [0.1], [0], 5, 3)[0] == parts[0]
    assert grid(*WHOLE, [0.1], [0], 5, 4)[0] != parts[0]
    assert len(grid(*WHOLE, [0.1], [0], 10_000)[0]) == len(whole)


def test_steps_change_one_thing_at_a_time():
    plan = steps([0.1, 0.2], [5])
    assert [c.sampler for c in plan].count("identity") == 1
    by_name = {c.name: c for c in plan if c.ratio == 0.2}
    described = dict(by_name["composite"].options)
    changed = {name: {k: v for k, v in c.options.items() if described.get(k) != v}
               for name, c in by_name.items() if c.sampler == "composite"}  # fmt: skip
    assert changed == {
        "composite": {}, "density inverted": {"density": "dense"}, "instability off": {"noise_T": 0},
        "pool by diversity": {"pool": "diversity"}, "refined by score": {"pool": "refined"}, "clean": {"clean": 0.1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("axis", "values", "said"),
    [
        (0, (), "weights"), (0, (11.0,), "weights"), (0, (float("nan"),), "weights"), (0, (0.0, 0.0), "each once"),
        (1, (1,), "starting points"), (2, (-1,), "noise"), (3, ("best",), "composite, diversity"),
        (4, (1.0,), "ratios"), (5, (-1,), "seeds"), (6, 0, "limit"),
    ],
    ids=["none", "large", "nan", "twice", "points", "noise", "pool", "ratio", "seed", "limit"],
)  # fmt: skip
def test_axes_that_cannot_be_are_refused(axis, values, said):
    given = [*WHOLE, [0.1], [0], None]
    given[axis] = values
    with pytest.raises(ValueError, match=said):
        grid(*given)
