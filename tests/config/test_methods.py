"""The settings of the other methods: in TOML, in dicts, checked, and no more of PatchCore's than mean something."""

from __future__ import annotations

from typing import Any

import pytest

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.methods import (
    METHOD_PRESETS,
    METHODS,
    MethodConfig,
    PadimSettings,
    SubspaceSettings,
    default_config,
    three_layers,
)
from patchcore_fast.errors import DataError


@pytest.mark.parametrize("name", [*METHODS, *(f"preset {name}" for name in METHOD_PRESETS)])
def test_dicts_and_files_give_the_same_settings_back(name, tmp_path):
    kind, _, preset = name.partition(" ")
    made = MethodConfig.preset(preset) if preset else default_config(kind)
    assert MethodConfig.from_dict(made.to_dict()) == made
    assert MethodConfig.from_toml(_written(tmp_path, made.to_toml())) == made


def test_layers_follow_from_the_backbone_as_the_method_wants_them():
    assert default_config("padim").base.layers == (1, 2, 3) and default_config("subspace").base.layers == (2, 3)
    made = MethodConfig.from_dict({"method": "padim", "features": {"backbone": "vit_small_patch14_dinov2"}})
    assert made.base.layers == three_layers("vit_small_patch14_dinov2") == (2, 5, 8)
    assert MethodConfig("padim", PatchCoreConfig(layers=(2,)), PadimSettings()).base.layers == (2,)
    assert three_layers("swin_tiny_patch4_window7_224") == (0, 1, 2)


def test_a_file_lies_over_a_preset(tmp_path):
    file = _written(tmp_path, "[features]\ncrop = 200\n[padim]\ndim = 50\n")
    made = MethodConfig.from_toml(file, "padim")
    assert (made.base.backbone, made.base.crop, made.settings.dim) == ("resnet18", 200, 50)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "elfs"}, "selection.sampler means nothing to method 'padim', got 'elfs'"),
        ({"ratio": 0.2}, "selection.ratio means nothing"),
        ({"count": 100}, "selection.count means nothing"),
        ({"price": 1.0}, "search.price means nothing"),
        ({"banks": "layer"}, "selection.banks means nothing"),
        ({"fusion": "interpolated"}, "features.fusion means nothing"),
        ({"tile": 64, "overlap": 0}, "features.tile means nothing"),
        ({"patch_size": 5}, "features.patch_size means nothing"),
        ({"scorer": "noising"}, "scoring.scorer means nothing"),
        ({"aspect": "keep"}, "takes images of one size"),
        ({"image_score": "reweighted"}, "looks into a bank"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_means_nothing_to_a_method_is_refused_by_name(changes: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=r"^MethodConfig: ") as caught:
        MethodConfig("padim", PatchCoreConfig(**changes), PadimSettings())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "says no method: method = one of padim"),
        ('method = "padimm"', "must be one of padim, subspace, simplenet, rd, got 'padimm' (did you mean padim?)"),
        ('method = "padim"\n[padim]\ndims = 3', "unknown fields padim.dims (did you mean dim?)"),
        ('method = "padim"\n[rd]\nepochs = 3', "unknown fields rd"),
        ('method = "padim"\nsigma = 3', "sigma: it belongs into [scoring]"),
        ('method = "padim"\n[padim]\ndim = 0', "padim.dim must be at least 1, got 0"),
        ('method = "padim"\n[padim]\nridge = 0', "padim.ridge must lie in (0, 1e+06], got 0"),
        ('method = "subspace"\n[subspace]\nvariance = 1.5', "subspace.variance must lie in (0, 1], got 1.5"),
        ('method = "rd"\n[rd]\nbetas = [0.5]', "rd.betas must be two numbers in [0, 1), got (0.5,)"),
        ('method = "rd"\n[rd]\nloss = "l2"', "rd.loss must be one of map, position, got 'l2'"),
        ('method = "rd"\n[rd]\ndecay_at = "late"', "rd.decay_at must be a number, got 'late'"),
        ('method = "simplenet"\n[simplenet]\nheld_out = 0.9', "simplenet.held_out must lie in [0, 0.5], got 0.9"),
        ("padim = 3\nmethod = 'padim'", "padim must hold settings by name, got 3"),
        ("method = ", "is no TOML"),
    ],
    ids=lambda value: "",
)
def test_a_wrong_file_is_named_with_what_is_wrong(text, words, tmp_path):
    with pytest.raises(DataError, match=r"settings\.toml: ") as caught:
        MethodConfig.from_toml(_written(tmp_path, text))
    assert words in str(caught.value)


def test_wrong_presets_and_parts():
    with pytest.raises(ValueError, match=r"preset must be one of .*did you mean padim"):
        MethodConfig.preset("padi")
    with pytest.raises(TypeError, match="settings must be PadimSettings, got SubspaceSettings"):
        MethodConfig("padim", PatchCoreConfig(), SubspaceSettings())
    with pytest.raises(TypeError, match="base must be PatchCoreConfig, got dict"):
        MethodConfig("padim", {}, PadimSettings())  # type: ignore[arg-type]


def _written(folder, text):
    path = folder / "settings.toml"
    path.write_text(text)
    return path
