"""accuracy/price_rules.py: columns of a price, paired differences, the choice by the other sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.accuracy import price_rules
from patchcore_fast.scores import support_distance


def test_columns_of_a_price() -> None:
    rows = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    images, chosen = torch.arange(60) // 10, torch.arange(0, 60, 7)
    s = support_distance(rows, chosen, image_ids=images).distance
    found = price_rules.columns_of(rows, chosen, images)
    assert torch.equal(found["all"], s) and torch.equal(found["fit"], s)  # so few rows are all looked among
    over = found["over 0.75"]
    assert torch.equal(over, (s - s.quantile(0.75)).clamp(min=0)) and 0 < int((over > 0).sum()) < len(s) / 2


def test_rules_are_measured_against_the_nearest_row(
    textures: list[Path], tmp_path: Path, run: Callable[..., str]
) -> None:
    options = ["--map-size", 16, "--sigma", 1, "--weights", "random", "--seeds", 1, "--images", 5, 3, 4]
    options += ["--features", tmp_path, "--json", tmp_path / "r.json"]
    said = run(price_rules, *textures[:2], *options)
    result = json.loads((tmp_path / "r.json").read_text())
    rows = result["rows"]
    assert price_rules.table(rows) in said and len(list(tmp_path.glob("*.safetensors"))) == 2
    assert len(rows) == 2 * 3 * len(price_rules.PRICES) * len(price_rules.IMAGE_SCORES)
    assert all(0 <= r["image_auroc"] <= 1 and 0 <= r["pixel_ap"] <= 1 for r in rows)
    base = price_rules.differences(rows, price_rules.BASE, 0.1)
    assert {v for of in base.values() for v in of.values()} == {0.0}
    run(price_rules, *textures[:2], *options)  # from the features that were kept
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == rows


def test_a_set_counts_by_the_rule_that_the_others_chose() -> None:
    """Set a alone likes the second rule."""
    first, second = (str(p) for p in price_rules.PRICES[:2])
    rows = [
        {"set": name, "seed": 0, "share": share, "price": price, "score": "max",
         "image_auroc": 0.5 + 0.1 * (price == (second if name == "a" else first))}
        for name in "abc" for share in price_rules.SHARES for price in (first, second)
    ]  # fmt: skip
    assert price_rules.left_out(rows)["a"] == (first, "max")
    assert price_rules.lost(rows, 0.1) == 0.0
