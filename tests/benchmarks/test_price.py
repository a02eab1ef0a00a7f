"""accuracy/price.py and speed/price.py: the rule as it is written, paired tests, and the page of committed results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.accuracy import price, price_rules, sets
from benchmarks.speed import price as cost
from patchcore_fast.model import PatchCoreConfig, pricing

ROOT = Path(__file__).parents[2]


def test_scores_follow_the_formula() -> None:
    g = torch.Generator().manual_seed(0)
    bank, test, s = torch.rand(12, 5, generator=g), torch.rand(3, 4, 5, generator=g), torch.rand(12, generator=g)
    features = sets.Features(torch.empty(0, 4, 5), test, (2, 2), "")
    distance = ((test[:, :, None] - bank).double().square().sum(-1) + (0.5 * s).double().square()).sqrt().sort().values
    kept = np.array([True, False, True])
    for k, scores, maps in price.scored(features, bank, 0.5 * s, kept, PatchCoreConfig(), 8, 0.0):
        want = distance[[0, 2], :, :k].mean(dim=2).amax(dim=1).numpy()
        assert scores == pytest.approx(want, rel=1e-6) and maps.shape == (2, 8, 8)


def test_every_contamination_has_one_test(textures: list[Path], tmp_path: Path, run: Callable[..., str]) -> None:
    options = ["--image-size", 64, "--map-size", 16, "--sigma", 1, "--weights", "random", "--ratio", 0.1]
    options += ["--seeds", 1, "--images", 10, 4, 6, "--elfs", "--json", tmp_path / "r.json"]
    said = run(price, textures[0], "--holdout", textures[1], *options)
    result = json.loads((tmp_path / "r.json").read_text())
    for part in ("rows", "holdout"):
        rows = result[part]
        assert price.table(rows) in said
        assert {r["share"]: r["moved"] for r in rows}[0.1] == 1 and len({r["tested"] for r in rows}) == 1
        greedy = [(r["k"], r["c"]) for r in rows if r["arm"] == "greedy" and (r["seed"], r["share"]) == (1, 0.1)]
        assert greedy == [(k, c) for c in price.PRICES for k in price.COUNTS]
        assert {r["arm"] for r in rows} == {"greedy", "elfs", "truth", "audit"}
        assert all(0 <= r["image_auroc"] <= 1 for r in rows)
    assert result["environment"]["commit"] and {r["set"] for r in result["holdout"]} == {textures[1].name}


def test_a_set_counts_by_the_rule_that_the_others_chose() -> None:
    """Set a alone likes k = 9; b and c like the price: a gets the price, and b and c what a and the other say."""
    rows = []
    for name in "abc":
        for k in price.COUNTS:
            for c in price.PRICES:
                good = 0.3 * (k == 9) if name == "a" else 0.2 * (c == 0.5)
                rows += [
                    {"set": name, "seed": 0, "share": share, "arm": "greedy", "k": k, "c": c, "image_auroc": 0.5 + good}
                    for share in price.SHARES
                ]
    assert price.left_out(rows) == {"a": (1, 0.5), "b": (9, 0.5), "c": (9, 0.5)}
    assert price.lost(rows, 0.1) == {"a": 0.0, "b": 0.0, "c": 0.0}


def test_a_rule_has_to_hold_clean_sets() -> None:
    """c = 0.5 gains most when contaminated and loses clean; c = 0.25 is best of the others, until it ruins one set."""
    rows = [
        {"set": name, "seed": 0, "share": share, "arm": "greedy", "k": k, "c": c, "pixel_auroc": 0.5 + 0.01 * (k > 1),
         "pixel_ap": 0.5, "image_auroc": 0.5 + (c if share else -0.1 * (c >= 0.5))}
        for name in "abc" for k in price.COUNTS for c in price.PRICES for share in price.SHARES
    ]  # fmt: skip
    assert price.within(rows, ["a", "b", "c"]) == (3, 0.25)
    for r in rows:
        r["image_auroc"] -= 0.02 * (r["set"] == "b" and r["c"] == 0.25 and not r["share"])
        r["image_auroc"] += 0.03 * (r["set"] == "a" and r["c"] == 0.25 and not r["share"])
    assert price.within(rows, ["a", "b", "c"]) == (1, 0.0) and price.within(rows, ["a", "c"]) == (3, 0.25)


def test_cost(textures: list[Path], tmp_path: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "ENOUGH", 1500)  # of the rows of three images, every second
    options = ["--ratio", 0.1, "--shots", 3, "--repeat", 1, "--weights", "random"]
    said = run(cost, textures[0], *options, "--json", tmp_path / "c.json")
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert cost.table(rows) in said and [(r["every"], r["right"]) for r in rows] == [(1, True), (2, True)]
    assert rows[0]["share_cpu"] > 0 and rows[0]["share_clock"] > 0


def test_the_page_shows_the_committed_results() -> None:
    page = (ROOT / "docs/price.md").read_text(encoding="utf-8")
    results = list(ROOT.glob("benchmarks/results/*/price/*.json"))
    assert results
    for path in results:
        found = json.loads(path.read_text())
        tables = {"price cost": cost.table, "price rules": price_rules.table, "price": price.table}
        assert tables[found["benchmark"]](found["rows"]) in page, path
