"""Presets: what goes before what, what is printed, and whether the page says what the data hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.config import GROUP_OF, PRESETS, PatchCoreConfig
from patchcore_fast.config.record import grouped
from patchcore_fast.config.toml import toml_text
from patchcore_fast.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "presets.md"


def test_the_page_says_what_the_data_hold() -> None:
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    assert [part.split("\n")[0] for part in parts] == list(PRESETS)
    for part, preset in zip(parts, PRESETS.values(), strict=True):
        block = part.split("```toml\n")[1].split("```")[0]
        assert block == (toml_text({"x": preset.settings}).split("\n", 1)[1] if preset.settings else
                         "# nothing differs from the defaults\n")  # fmt: skip
        text = " ".join(part.split())
        assert preset.source in text
        assert [" ".join(point.split()) for point in part.split("\n* ")[1:]] == list(preset.differs)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_its_settings_and_nothing_else(name: str) -> None:
    config, default = PatchCoreConfig.preset(name), PatchCoreConfig()
    settings = PRESETS[name].settings
    assert all(getattr(config, key) == value for key, value in settings.items())
    if "backbone" not in settings:
        assert all(getattr(config, key) == getattr(default, key) for key in GROUP_OF if key not in settings)


def test_the_two_old_ways_are_presets() -> None:
    assert PatchCoreConfig.preset("patchcore") == PatchCoreConfig()
    assert PatchCoreConfig.amazon(ratio=0.2) == PatchCoreConfig.preset("amazon", ratio=0.2)
    assert PatchCoreConfig.anomalib(score="max") == PatchCoreConfig.preset("anomalib", image_score="max")
    assert PatchCoreConfig.amazon().input_size == (224, 224) and PatchCoreConfig.amazon().fusion == "amazon"
    with pytest.raises(ValueError, match=r"got 'amazn' \(did you mean amazon\?\)"):
        PatchCoreConfig.preset("amazn")


def test_a_flag_beats_the_file_and_the_file_the_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[selection]\nratio = 0.2\nseed = 7\n[features]\ndim = 512\n")  # dim fits the preset's fusion only
    argv = ["fit", "--preset", "amazon", "--config", str(file), "--seed", "8", "--print-config"]
    assert main(argv) == 0
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    found = PatchCoreConfig.from_toml(printed)
    assert found == PatchCoreConfig.preset("amazon", ratio=0.2, dim=512, seed=8)
    assert PatchCoreConfig.from_toml(file, "amazon") == PatchCoreConfig.preset("amazon", ratio=0.2, dim=512, seed=7)
    with pytest.raises(DataError, match=r"settings.toml: features.dim belongs to"):
        PatchCoreConfig.from_toml(file)
    file.write_text("selection = 3\n")
    with pytest.raises(DataError, match=r"settings.toml: selection must hold"):
        PatchCoreConfig.from_toml(file, "amazon")


@pytest.mark.parametrize("command", ["fit", "plan", "evaluate", "inspect"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_print_config_wants_nothing_else(command: str, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--preset", "anomalib"]
    assert main([command, *(["--print-config", *rest] if place == "before" else [*rest, "--print-config"])]) == 0
    printed = capsys.readouterr().out
    assert printed == PatchCoreConfig.preset("anomalib").to_toml() and "[scoring]" in printed


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("fit", "--preset", "amazn"), "invalid choice: 'amazn'"),
        (("fit", "--preset", "amazon"), "required: --output"),
        (("fit", "--print-config", "--ratio", "7"), "selection.ratio must be in (0, 1)"),
        (("fit", "--print-config", "--config", "nowhere.toml"), "nowhere.toml: no such file"),
        (("evaluate", "--print-config", "--bank", "b"), "--bank brings a fitted model"),
        (("evaluate", "data", "--preset", "amazon", "--bank", "b"), "--preset: belongs to fitting"),
    ],
)
def test_what_is_wrong_is_said(argv: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_settings_are_printed_without_torch() -> None:
    code = "import sys; from patchcore_fast.cli import main; code = main(['fit', '--print-config', '--seed', '1']); "
    code += "sys.exit(code + ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("[features]") and not done.stderr


def test_settings_of_presets_have_a_group_or_wait_for_one() -> None:
    for name, preset in PRESETS.items():
        assert set(grouped(preset.settings)) <= set(PatchCoreConfig().to_dict()), name
