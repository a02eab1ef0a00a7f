"""Defaults by the name of the backbone: the table, how settings follow it, and that it is true of timm."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from patchcore_fast.config import FeatureSettings, PatchCoreConfig
from patchcore_fast.config.families import FAMILIES, PYRAMID, defaults_of, depth_of, family_of

DOC = Path(__file__).parents[2] / "docs" / "backbones.md"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("tf_efficientnet_lite0", ((2, 3), 256, 3, False)), ("wide_resnet50_2.tv_in1k", ((2, 3), 256, 3, False)),
        ("module:torchvision.models.vit.ViT", ((2, 3), 256, 3, False)),
        ("module:vit_pytorch.vit.ViT", ((2, 3), 256, 3, False)), ("module:swin.Swin", ((2, 3), 256, 3, False)),
        ("vit_small_patch14_dinov2.lvd142m", ((5, 8), 448, 1, True)),
        ("hf-hub:timm/vit_large_patch16_dinov3.lvd1689m", ((11, 17), 512, 1, True)),
        ("vit_7b_patch16_dinov3", ((19, 29), 512, 1, True)), ("deit3_huge_patch14_224", ((15, 23), 448, 1, True)),
        ("xcit_tiny_24_p8_224", ((11, 17), 224, 1, True)), ("vit_base_patch32_224", ((5, 8), 512, 1, True)),
        ("beit_large_patch16_384", ((11, 17), 384, 1, True)),
        ("swinv2_base_window12to16_192to256", ((1, 2), 256, 3, False)), ("hiera_tiny_224", ((1, 2), 224, 3, False)),
        ("vig_ti", ((5, 8), 224, 1, False)), ("vig_b", ((7, 11), 224, 1, False)),
        ("pvig_m", ((1, 2), 224, 3, False)),
    ],
)  # fmt: skip
def test_rows(name: str, wanted: tuple[object, ...]) -> None:
    assert tuple(defaults_of(name)) == wanted


def test_what_is_not_given_follows_the_backbone() -> None:
    config = PatchCoreConfig(backbone="vit_small_patch14_dinov2")
    assert (config.layers, config.image_size, config.patch_size, config.norm) == ((5, 8), 448, 1, True)
    assert repr(config) == "PatchCoreConfig(backbone='vit_small_patch14_dinov2')"
    back = config.replace(backbone="resnet18")
    assert back == PatchCoreConfig(backbone="resnet18") and back.layers == PYRAMID.layers
    assert config.replace(ratio=0.1).replace(backbone="resnet18") == PatchCoreConfig(backbone="resnet18", ratio=0.1)
    assert dataclasses.replace(config, backbone="resnet18") == back  # type: ignore[call-arg]
    assert config.replace(features=FeatureSettings()) == PatchCoreConfig()


def test_what_is_given_stays() -> None:
    config = PatchCoreConfig(layers=(1, 2), image_size=128).replace(backbone="vit_small_patch14_dinov2")
    assert (config.layers, config.image_size, config.patch_size) == ((1, 2), 128, 1)
    config = PatchCoreConfig().replace(image_size=320).replace(backbone="vit_base_patch16_224", norm=False)
    assert (config.image_size, config.norm, config.layers) == (320, False, (5, 8))
    # A bank and a TOML file hold every value as given: they mean tomorrow what they mean today.
    loaded = PatchCoreConfig.from_dict(PatchCoreConfig().to_dict()).replace(backbone="vit_small_patch14_dinov2")
    assert loaded.layers == (2, 3) and loaded.patch_size == 3


def test_files_hold_the_values(tmp_path: Path) -> None:
    config = PatchCoreConfig(backbone="vit_small_patch14_dinov2")
    assert "layers = [5, 8]" in config.to_toml(tmp_path / "c.toml") and config.to_dict()["features"]["norm"] is True
    assert PatchCoreConfig.from_toml(tmp_path / "c.toml") == config
    (tmp_path / "d.toml").write_text("[features]\nbackbone = 'vit_small_patch14_dinov2'\n")
    assert PatchCoreConfig.from_toml(tmp_path / "d.toml") == config


@pytest.mark.parametrize("wrong", [{"norm": "yes"}, {"norm": 1}, {"backbone": 3}])
def test_wrong_ones(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"features\.(norm|backbone) must be"):
        PatchCoreConfig(**wrong)


def _true_of_timm(names: list[str]) -> None:
    from patchcore_fast.features.networks import outline

    for name in names:
        known, row = outline(name), defaults_of(name)
        assert max(row.layers) < len(known.modules), name
        assert known.sized or row.image_size % known.multiple[0] == 0, name
        family = family_of(name)
        assert family is not None and (not known.sized or family.native or family.stages), name
        if not family.stages and "test" not in name:
            assert len(known.modules) >= depth_of(name), name
        if known.sized:
            assert known.native == (row.image_size, row.image_size), name


def test_the_table_is_true_of_timm() -> None:
    _true_of_timm(
        [f.example for f in FAMILIES if "Vision GNN" not in f.name]
        + ["test_vit", "vit_small_patch16_dinov3", "cait_xxs24_224"]
    )


@pytest.mark.thorough
def test_the_table_is_true_of_all_of_timm() -> None:
    import timm

    left_out = ("vitamin", "naflexvit", "vit_base_mci", "hieradet", "sam2")
    names = [n for n in timm.list_models() if family_of(n) is not None and not n.startswith(left_out)]
    assert len(names) > 250
    with torch.device("meta"):
        _true_of_timm(names)


def test_the_page_has_the_table() -> None:
    rows = [line.strip("| \n").split(" | ") for line in DOC.read_text(encoding="utf-8").splitlines()
            if line.startswith("| ")]  # fmt: skip
    said = {row[1].strip("`"): tuple(row[2:]) for row in rows[1:] if row[1].startswith("`")}
    for name in ("tf_efficientnet_lite0", *(f.example for f in FAMILIES)):
        d = defaults_of(name)
        wanted = (",".join(map(str, d.layers)), str(d.image_size), str(d.patch_size), "yes" if d.norm else "no")
        assert said.pop(name) == wanted, name
    assert not said
