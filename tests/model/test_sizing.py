"""Budgets of a fit: rows of each kind, what fewer rows give, layers, and what is shown of it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from patchcore_fast.cli import main
from patchcore_fast.data import scan
from patchcore_fast.model import PatchCore, forecast, sizing
from patchcore_fast.model.collect import FeatureRows
from patchcore_fast.model.sizing import SHARES, Sizing
from patchcore_fast.report.page import write_report

from ..evaluated import TINY, tiny_config
from ..pictures import write_mvtec


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """A machine that needs 1 ms a search and a nanosecond a query, row and number; what it was asked."""
    asked: list[tuple[int, int, int]] = []

    def seconds(query: torch.Tensor, bank: torch.Tensor, k: int) -> float:
        asked.append((len(query), len(bank), bank.shape[1]))
        return 1e-3 + 1e-9 * len(query) * bank.numel()

    monkeypatch.setattr(sizing, "search_seconds", seconds)
    return asked


def fitted(images: torch.Tensor, budget: Any, **changes: Any) -> PatchCore:
    return PatchCore(tiny_config(ratio=None, budget=budget, **changes), progress=False).fit(images)


@pytest.mark.parametrize("sampler", ["greedy", "approximate", "random", "elfs"])
def test_a_number_is_rows(images: torch.Tensor, sampler: str) -> None:
    bank = fitted(images, 37, sampler=sampler).bank
    assert len(bank) == bank.size.rows == 37 and bank.size.budget == bank.config["selection"]["budget"] == "37"
    assert [bool(step.radius) for step in bank.size.curve] == [sampler == "greedy"] * len(bank.size.curve)
    assert all(step.score is not None for step in bank.size.curve)


def test_never_more_than_all_rows(images: torch.Tensor) -> None:
    for budget in ("100000", "1GB"):
        bank = fitted(images[:3], budget).bank
        assert sorted(bank.indices.tolist()) == list(range(bank.patches)) and bank.size.rows == bank.patches


@pytest.mark.parametrize(
    ("changes", "item", "price"), [({}, 4, 1), ({"precision": "float16"}, 2, 1), ({"price": 0.0}, 4, 0)]
)
def test_bytes_are_those_of_the_rows_with_their_price(images, changes: dict[str, Any], item: int, price: int) -> None:
    bank = fitted(images, "20KB", **changes).bank
    row = (bank.width + price) * item
    assert len(bank) == 20_000 // row and bank.size.bytes == len(bank) * row
    assert bank.searched.numel() * bank.searched.element_size() == bank.size.bytes


def test_a_single_image_pays_no_price(images: torch.Tensor) -> None:
    bank = fitted(images[:1], "8KB").bank
    assert bank.support is None and len(bank) == 8000 // (bank.width * 4)
    assert [step.score for step in bank.size.curve] == [None] * 5 and bank.size.curve[-1].radius == (bank.radius,)


def test_time_is_measured_here_and_recorded(images: torch.Tensor, timed: list[tuple[int, int, int]]) -> None:
    model = fitted(images, "1.5ms")
    bank, size = model.bank, model.bank.size
    patches = bank.patches // 12
    row = 1e-9 * patches * (bank.width + 1)
    assert {q for q, _, _ in timed} == {patches} and {d for _, _, d in timed} == {bank.width + 1}
    assert len({m for _, m, _ in timed}) == 2
    assert len(bank) == pytest.approx(0.5e-3 / row, abs=1) and size.device
    assert size.fixed_ms == pytest.approx(1.0) and size.row_ms == pytest.approx(1000 * row)
    assert size.search_ms == pytest.approx(1.5, abs=2 * 1000 * row)
    again = fitted(images, size.rows).bank  # what was measured once is had again by its rows
    assert torch.equal(again.indices, bank.indices) and again.threshold == bank.threshold
    assert again.size.curve == size.curve and not again.size.device


def test_a_real_measurement_gives_some_rows(images: torch.Tensor) -> None:
    size = fitted(images, "10s").bank.size
    assert size.rows == 12 * (size.rows // 12) and size.row_ms > 0 and size.device


def test_time_grows_with_rows_of_all_layers(images: torch.Tensor, timed: list[tuple[int, int, int]]) -> None:
    bank = fitted(images, "3ms", banks="layer").bank
    patches, (a, b) = bank.patches // 12, [part.width + 1 for part in bank.parts]
    each = 1e-9 * patches * (a + b)
    assert [len(part) for part in bank.parts] == [bank.size.rows // 2] * 2
    assert bank.size.rows // 2 == pytest.approx(1e-3 / each, abs=1)
    assert bank.size.search_ms == pytest.approx(3.0, abs=2 * 1000 * each)


@pytest.mark.parametrize(("budget", "rows"), [("60", 30), ("61", 30), ("20KB", None)])
def test_layers_share_a_budget(images: torch.Tensor, budget: str, rows: int | None) -> None:
    bank = fitted(images, budget, banks="layer").bank
    each = sum(part.width + 1 for part in bank.parts) * 4
    rows = 20_000 // each if rows is None else rows
    assert [len(part) for part in bank.parts] == [rows, rows] and bank.size.rows == 2 * rows == len(bank)
    assert bank.size.bytes == rows * each <= (20_000 if budget == "20KB" else 1e9)
    assert [step.rows for step in bank.size.curve] == sorted({2 * max(3, int(s * rows)) for s in SHARES})
    for number, part in enumerate(bank.parts):
        assert bank.size.curve[-1].radius[number] == part.radius
    assert bank.size.curve[-1].score == pytest.approx(median(bank.normal_scores.tolist()))
    scores = [step.score for step in bank.size.curve]
    assert scores[0] > scores[-1]  # on the scales of the whole bank, so that they can be compared


@pytest.mark.parametrize("changes", [{}, {"augment": "rotate", "augmentations": 1, "shots": 5}])
def test_the_curve_is_that_of_separate_fits(images: torch.Tensor, changes: dict[str, Any]) -> None:
    curve = fitted(images, 160, **changes).bank.size.curve
    assert [step.rows for step in curve] == [10, 20, 40, 80, 160]
    for step in curve:
        alone = fitted(images, step.rows, **changes).bank
        assert step.radius == (alone.radius,) and alone.size.curve[-1] == step
        assert step.score == median(alone.normal_scores.tolist())


@pytest.mark.parametrize(
    ("budget", "changes", "message"),
    [
        ("7B", {}, r"budget 7B holds no row: \d+ bytes are wanted at least"),
        ("1", {"banks": "layer"}, "budget 1 holds no row: 2 rows, one of each layer, are wanted at least"),
        ("1us", {}, r"budget 1us holds no row: 1\.\d+ ms are wanted at least"),
        (
            "2",
            {"neighbours": 4},
            "the coreset has 2 of .* at least 4 wanted: give more images, a larger ratio or budget",
        ),
    ],
)
def test_too_small_is_said(images, timed, budget: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"PatchCore\.fit: {message}"):
        fitted(images, budget, **changes)


def test_a_budget_goes_with_samplers_by_name(images: torch.Tensor) -> None:
    class First:
        def select(self, features: torch.Tensor) -> torch.Tensor:
            return torch.arange(5)

    with pytest.raises(ValueError, match=r"selection\.budget is of a sampler by its name"):
        PatchCore(tiny_config(ratio=None, budget="50"), First()).fit(images)


def test_images_of_several_sizes_are_timed_by_the_first(timed: list[tuple[int, int, int]]) -> None:
    rows = FeatureRows(None)
    for side in (4, 6):
        rows.add(torch.rand(side * side, 8), (side, side))
    found = Sizing(tiny_config(ratio=None, budget="1.01ms"), [rows], 2, torch.device("cpu"))
    assert {q for q, _, _ in timed} == {16} and found.rows == 52


def test_update_and_scoring_keep_what_still_holds(images: torch.Tensor) -> None:
    model = fitted(images, 50)
    size = model.bank.size
    model.decide(max_false_alarms=0.05)
    assert model.bank.size == size
    model.update(images[:2] * 0.5, add=3)
    assert model.bank.size is None  # it is no longer of that budget


@pytest.mark.usefixtures("no_drawing")
def test_console_plan_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weave = write_mvtec(tmp_path / "weave", train=12, good=2, bad=2)
    plain = TINY[: TINY.index("--ratio")]
    bank = tmp_path / "b.safetensors"
    assert main(["fit", str(weave), "--output", str(bank), *plain, "--budget", "20KB"]) == 0
    said = capsys.readouterr().out
    size = PatchCore.load(bank).bank.size
    assert f"Budget 20KB: {size.rows} rows in {size.bytes / 1000:.1f} KB.\n" in said
    (head,) = (i for i, line in enumerate(said.splitlines()) if line.split()[:2] == ["rows", "radius"])
    for line, step in zip(said.splitlines()[head + 1 :], size.curve, strict=False):
        assert line.split() == [str(step.rows), f"{step.radius[0]:.4g}", f"{step.score:.4g}"]
    assert len(size.curve) == 5

    found = forecast.forecast(tiny_config(ratio=None, budget="20KB"), scan(weave).train)
    fit = PatchCore(tiny_config(ratio=None, budget="20KB")).fit(weave).bank
    assert (found.picks, found.bank_bytes, found.budget) == (len(fit), fit.size.bytes, "20KB") and found.search_s > 0
    assert main(["plan", str(weave), *plain, "--budget", "100000"]) == 0  # more than there are
    assert "Budget 100000: 3,072 rows in 1.0 MB, searched in about " in capsys.readouterr().out
    assert main(["plan", str(weave), *plain, "--budget", "20KB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["picks"] == size.rows

    out = tmp_path / "out"
    assert main(["evaluate", str(weave), "--output", str(out), *plain, "--budget", "160"]) == 0
    assert "Budget 160: 160 rows" in capsys.readouterr().out
    text = write_report(out).read_text(encoding="utf-8")
    assert "Budget 160: 160 rows in " in text and text.count('<table class="budget">') == 1
    for title in ("Covering radius", "Held-out score"):
        assert f'aria-label="{title} against the rows of the bank"' in text
    for rows in (10, 20, 40, 80, 160):
        assert f'<tr><td class="num">{rows}</td>' in text and f'text-anchor="middle">{rows}</text>' in text
    told = json.loads((out / "report.json").read_text())
    told["bank"]["size"]["curve"][0]["rows"] = 20
    (out / "report.json").write_text(json.dumps(told))
    assert main(["report", str(out)]) == 2 and "of more and more rows" in capsys.readouterr().err
    told["bank"]["size"] = None
    (out / "report.json").write_text(json.dumps(told))
    assert "against the rows of the bank" not in write_report(out).read_text(encoding="utf-8")
    assert main(["inspect", str(weave), "--output", str(tmp_path / "look"), *plain, "--budget", "40"]) == 0
    assert json.loads((tmp_path / "look" / "selection.json").read_text())["picked"] == 40
