"""The best is the highest mean on what was held out; nothing of the test images has a say."""

from __future__ import annotations

import random

import pytest

from patchcore_fast.experiments.choice import best_config, choose
from patchcore_fast.experiments.combinations import Combination, grid
from patchcore_fast.experiments.table import row_of
from patchcore_fast.model import PatchCoreConfig

ABOUT = {"held_out": ["a", "b"], "synthetic": 6}


def rows_of(plan: list[Combination], values: dict[str, float], **more: float) -> list[dict[str, object]]:
    found = []
    for c in plan:
        v = values.get(c.name, 0.5) + 0.01 * c.seed
        found.append(row_of(c, {"auroc": v, "pixel_auroc": v, "pixel_ap": 0.5, "seconds": 1.0} | more))
    return found


def test_the_highest_mean_over_seeds_wins_and_equals_go_by_pixel_ap_then_by_order():
    plan, _ = grid((0.0, 1.0), (10,), (0,), ("composite",), [0.1], [0, 1])
    settings = [c.name for c in plan if c.sampler == "composite" and not c.seed]
    rows = rows_of(plan, {settings[1]: 0.9, settings[2]: 0.9, "greedy": 0.95})
    best = choose(rows, plan, ABOUT)
    assert best is not None and best.combination.name == settings[1] and best.value == pytest.approx(0.905)
    assert "2 normal training images" in best.sentence and "12 copies" in best.sentence
    assert "no part in it" in best.sentence and "Exact greedy is at least as good" in best.sentence
    for row in rows:
        row["pixel_ap"] = 0.6 if row["name"] == settings[2] else 0.5
    assert choose(rows, plan, ABOUT).combination.name == settings[2]
    rows[0]["choice"] = None  # greedy, seed 0
    assert "at least as good" not in choose(rows, plan, ABOUT).sentence


def test_a_setting_that_lacks_a_row_is_not_chosen():
    plan, _ = grid((0.0, 1.0), (10,), (0,), ("composite",), [0.1, 0.2], [0])
    settings = [c.name for c in plan if c.sampler == "composite"]
    rows = [r for r in rows_of(plan, {settings[1]: 0.9}) if (r["name"], r["ratio"]) != (settings[1], 0.2)]
    assert choose(rows, plan, ABOUT).combination.name == settings[0]
    assert choose(rows_of(plan[:2], {}), plan[:2], ABOUT) is None


def test_test_columns_change_nothing():
    plan, _ = grid((-1.0, 0.0, 1.0), (10,), (0, 1), ("composite",), [0.1], [0])
    draw = random.Random(0)
    values = {c.name: draw.random() for c in plan}
    tested = ("test_auroc", "test_ap", "test_pixel_auroc", "test_pixel_ap", "test_iou")
    low, high = (choose(rows_of(plan, values, **dict.fromkeys(tested, v)), plan, ABOUT) for v in (0.0, 1.0))
    turned = rows_of(plan, values)
    for row in turned:
        row |= {name: 1 - row["auroc"] for name in tested}
    assert low == high == choose(turned, plan, ABOUT)


def test_the_file_is_a_config_that_says_how_it_was_chosen(tmp_path):
    plan, _ = grid((-1.0, 0.5), (10, 30), (0, 2), ("diversity",), [0.2], [3])
    name = "-1/0.5/0.5 points=30 noise=2 pool=diversity"
    best = choose(rows_of(plan, {name: 0.9}), plan, ABOUT)
    config = PatchCoreConfig(backbone="resnet10t", layers=(1, 2), count=7, batch_size=3)
    (tmp_path / "best.toml").write_text(text := best_config(best, config))
    found = PatchCoreConfig.from_toml(tmp_path / "best.toml")
    assert found.sampler == "composite" and found.ratio == 0.2 and found.seed == 3 and found.count is None
    assert dict(found.selection.sampler_options) == dict(best.combination.options)
    assert found.layers == ("1", "2") or found.layers == (1, 2)
    assert "[selection.sampler_options]" in text and text.startswith(f"# {name}: ") and "batch_size" not in text
    assert " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")) == best.sentence
