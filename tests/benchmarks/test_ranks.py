"""The script that measures ranks: its model on made-up costs, and the whole of it at a toy size."""

from __future__ import annotations

import json

import pytest

from benchmarks import ROOT
from benchmarks.speed import ranks

from ..programs import CONTEXT


def made_up(n, k, size, passes, share, fitted=True):
    run = {"n": n, "k": k, "d": 128, "ranks": size, "passes": passes, "share_of_distances": share, "fitted": fitted,
           "bytes_a_pass": 1e6 / size}  # fmt: skip
    costs = (1e-11, 2e-11, 1e-3, 1e-9)
    run["median_s"] = sum(cost * term for cost, term in zip(costs, ranks.terms(run), strict=True))
    return run


def test_the_model_finds_costs_and_predicts():
    runs = [
        made_up(100_000, 1000, 2, 14, 0.3), made_up(100_000, 10_000, 2, 25, 0.4), made_up(50_000, 5000, 1, 20, 0.35),
        made_up(200_000, 4000, 1, 18, 0.3), made_up(30_000, 9000, 1, 30, 0.4),
        made_up(150_000, 3000, 2, 16, 0.33, fitted=False),
    ]  # fmt: skip
    costs = ranks.predict(runs)
    assert costs["seconds_a_product"] == pytest.approx(1e-11, rel=0.05)
    for run in runs:
        assert run["predicted_s"] == pytest.approx(run["median_s"], rel=0.01)


def test_a_quick_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranks.multiprocessing, "get_context", lambda kind: CONTEXT)
    ranks.main(["--quick", "--repeat", "1", "--json", str(tmp_path / "ranks.json")])
    said = capsys.readouterr().out
    assert said.count("of one process") == 3 and said.count("did not know it") == 1
    result = json.loads((tmp_path / "ranks.json").read_text())
    assert [run["ranks"] for run in result["runs"]] == [2, 1, 2] and result["environment"]["commit"]


def test_the_page_shows_the_committed_result():
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    results = list(ROOT.glob("benchmarks/results/*/ranks.json"))
    assert len(results) == 1  # the page is of one machine
    result = json.loads(results[0].read_text())
    assert ranks.table(result["runs"]) in page and ranks.on_paper(result["costs"]) in page
