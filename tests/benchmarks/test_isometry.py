"""accuracy/isometry.py on what is known beforehand and on a small folder; docs/graphcore.md shows the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import isometry
from benchmarks.pages import graphcore

from ..pictures import write_mvtec


def test_pixels_turn_with_their_image() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = list(isometry.matched(lambda x: [x, x.abs().sqrt()], images))
    assert len(found) == len(isometry.VIEWS) == 5
    for view in found:
        for matched, low, apart in view:
            assert matched == pytest.approx(1) and low == pytest.approx(1) and apart < 0.95


def test_radii_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isometry, "PICKS", (1, 3, 6))
    generator = torch.Generator().manual_seed(1)
    own, others = torch.randn(40, 4, generator=generator), torch.randn(30, 4, generator=generator)
    picks = [0]
    for _ in range(6):
        picks.append(int(torch.cdist(own, own[picks]).amin(dim=1).argmax()))
    for count, (radius, ratio) in zip((1, 3, 6), isometry.covered(own, others), strict=True):
        chosen = own[picks[:count]].double()
        want = float(torch.cdist(own.double(), chosen).amin(dim=1).max())
        assert radius == pytest.approx(want, rel=1e-6)
        assert ratio == pytest.approx(float(torch.cdist(others.double(), chosen).amin(dim=1).max()) / want, rel=1e-6)
    assert [ratio for _, ratio in isometry.covered(own, own)] == pytest.approx([1, 1, 1])


def test_script(tmp_path: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isometry, "PICKS", (1, 8))
    monkeypatch.setattr(isometry, "NETWORKS", {"test_efficientnet": isometry.Kind((1, 2), "random")})
    folder, out = write_mvtec(tmp_path / "weave", train=3, side=64), tmp_path / "isometry.json"
    said = run(isometry, folder, "--images", 2, "--image-size", 64, "--output", out, "--networks",
               "test_efficientnet")  # fmt: skip
    result: dict[str, Any] = json.loads(out.read_text())
    assert result["options"]["sets"] == ["weave"] and result["environment"]["commit"] and "graph" in said
    assert len(result["cosines"]) == 4 * 5 and len(result["radii"]) == 2 * 6
    assert all(-1 <= r["low"] <= r["mean"] <= 1 for r in result["cosines"])
    assert all(len(r["own"]) == len(r["ratio"]) == 2 and r["own"][0] > r["own"][1] > 0 for r in result["radii"])
    graphcore.draw(result, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_the_page_shows_what_the_results_hold(run: Callable[..., str]) -> None:
    run(graphcore, "--check")
    found = graphcore.read(graphcore.ROOT)
    cell = next(c for c in found["isometry"]["cosines"] if c["features"] == "graph")
    cell["mean"] += 1
    assert graphcore.page(text := graphcore.PAGE.read_text(encoding="utf-8"), found) != text
