"""A budget in place of a ratio: what it may be, what it goes with, and which of two settings wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.cli import main
from patchcore_fast.config import PatchCoreConfig, SelectionSettings
from patchcore_fast.config.budget import Budget, parse_budget, percentage_of


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("2000", "rows", 2000), ("1", "rows", 1), ("20MB", "bytes", 20e6), ("20mb", "bytes", 20e6),
        ("512KiB", "bytes", 2**19), ("1.5 GB", "bytes", 1.5e9), ("1GiB", "bytes", 2**30), ("64B", "bytes", 64),
        ("1.5kb", "bytes", 1500), ("5ms", "seconds", 0.005), ("0.2s", "seconds", 0.2), (" 300 us ", "seconds", 3e-4),
    ],
)  # fmt: skip
def test_three_kinds(text: str, kind: str, amount: float) -> None:
    found = parse_budget(text)
    assert found.kind == kind and found.amount == pytest.approx(amount, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5", "1.5", "1e3", "20M", "20 XB", "MB", "0ms", "0.0s", "0.5B", "5m", "nan", "inf", "1_000", "2,000",
     "9" * 30, "9999999999TB", "5 ms please"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a number of rows .* bytes .* or search time per image .* got "):
        parse_budget(text)
    with pytest.raises((ValueError, TypeError), match=r"selection\.budget must be "):
        PatchCoreConfig(budget=text)


def test_a_sampler_picks_that_many_rows() -> None:
    for total in (1, 2, 7, 1000, 2**40 + 1):
        for rows in {1, 2, total // 3 or 1, total - 1 or 1, total, total + 5}:
            assert int(total * percentage_of(rows, total)) == min(rows, total)


def test_a_budget_stands_in_place_of_the_ratio(tmp_path: Path) -> None:
    config = PatchCoreConfig(budget="20MB")
    assert config.budget == "20MB" and config.ratio is None and PatchCoreConfig().ratio == 0.01
    assert PatchCoreConfig(budget=2000).budget == "2000" and parse_budget("2000") == Budget("rows", 2000)
    assert PatchCoreConfig.from_dict(config.to_dict()) == config
    config.to_toml(tmp_path / "c.toml")
    assert PatchCoreConfig.from_toml(tmp_path / "c.toml") == config
    assert PatchCoreConfig().replace(budget="5ms").replace(budget=None) == PatchCoreConfig()
    for preset in ("amazon", "superadd"):  # the preset's ratio is not the user's
        assert PatchCoreConfig.preset(preset, budget="1GB").ratio is None
        (tmp_path / "few.toml").write_text('[selection]\nbudget = "20MB"\n')
        assert PatchCoreConfig.from_toml(tmp_path / "few.toml", preset).budget == "20MB"
    with pytest.raises(ValueError, match="sampler 'identity' keeps"):
        PatchCoreConfig.preset("anomalydino", budget="1GB")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"budget": "20MB", "ratio": 0.01}, ValueError, r"budget goes in place of ratio: give one .* ratio=0\.01"),
        (
            {"budget": "20MB", "sampler": "identity"},
            ValueError,
            "budget .* which sampler 'identity' keeps",
        ),
        ({"budget": 2.5}, TypeError, r"budget must be a non-empty string, got 2\.5"),
        ({"budget": True}, TypeError, "budget must be a non-empty string, got True"),
        ({"budget": -1}, ValueError, "budget must be a number of rows .* got '-1'"),
        (
            {"budget": "9", "sampler": "a.B", "sampler_parameters": {}},
            ValueError,
            r"budget .* an object, here a\.B, has a size",
        ),
    ],
)
def test_what_it_does_not_go_with(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"PatchCoreConfig: selection\.{message}"):
        SelectionSettings(**settings)


def test_what_is_typed_goes_before_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"

    def printed(*options: str) -> str:
        assert main(["fit", "--print-config", "--config", str(file), *options]) == 0
        return capsys.readouterr().out

    file.write_text("[selection]\nratio = 0.2\n")
    assert 'budget = "5ms"' in printed("--budget", "5ms") and "ratio" not in printed("--budget", "5ms")
    file.write_text('[selection]\nbudget = "5ms"\n')
    assert "ratio = 0.3" in printed("--ratio", "0.3") and "budget" not in printed("--ratio", "0.3")
    assert 'budget = "1GB"' in printed("--budget", "1GB")
    assert main(["fit", "--print-config", "--budget", "1GB", "--ratio", "0.1"]) == 2
    assert "budget goes in place of ratio: give one of them" in capsys.readouterr().err
