"""examples/configs: each file gives the settings of the preset that it stands for, and no value of it is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.methods import METHOD_PRESETS, METHODS, MethodConfig
from patchcore_fast.config.toml import read_toml
from patchcore_fast.config.tracking import TrackingSettings

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
FILES = sorted(path.stem for path in CONFIGS.glob("*.toml"))


def text(name: str) -> str:
    return (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")


TRACKED = [name for name in FILES if "[tracking]" in text(name)]


def settings(name: str) -> Any:
    file = CONFIGS / f"{name}.toml"
    return MethodConfig.from_toml(file) if "method" in read_toml(file) else PatchCoreConfig.from_toml(file)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_its_preset(name: str) -> None:
    preset = name.replace("_", "-")
    wanted = PatchCoreConfig.preset(preset) if preset == "patchcore" else MethodConfig.preset(preset)
    assert settings(name) == wanted
    assert f'preset "{preset}"' in text(name)


def test_there_is_one_for_each_model() -> None:
    assert set(FILES) == {"patchcore"} | {preset.replace("-", "_") for preset in METHOD_PRESETS}
    assert set(METHODS) < set(FILES)


@pytest.mark.parametrize("name", TRACKED)
def test_what_a_file_says_of_logging_is_right_once_it_is_uncommented(name: str, tmp_path: Path) -> None:
    head, found, tail = text(name).partition("\n[tracking]")
    file = tmp_path / "settings.toml"
    file.write_text(head + found + tail.replace("\n# ", "\n"))
    chosen = TrackingSettings.from_toml(file)
    assert (chosen.log, chosen.project, chosen.log_model) == ("wandb", "line 3", True)
    assert TrackingSettings.from_toml(CONFIGS / f"{name}.toml") == TrackingSettings()
