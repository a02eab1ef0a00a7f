"""Transformers as backbones: our maps are timm's own tokens, at sizes that they were not trained at."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from patchcore_fast.features import Backbone
from patchcore_fast.features.networks import outline, own_random_state

# Name, what the plain model is built with, (height, width) of the images, layers.
DYNAMIC = {"dynamic_img_size": True}
STAGED = ("swin_tiny_patch4_window7_224", "hiera_tiny_224")  # the others are built with four blocks
CASES: dict[str, tuple[dict[str, Any], tuple[int, int], tuple[int, ...]]] = {
    "vit_tiny_patch16_224": (DYNAMIC, (64, 96), (1, 3)),
    "vit_small_patch14_dinov2": (DYNAMIC, (70, 56), (0, 2)),
    "vit_small_patch14_reg4_dinov2": (DYNAMIC, (56, 56), (1, 2)),
    "vit_small_patch16_dinov3": (DYNAMIC, (64, 80), (0, 1)),
    "eva02_tiny_patch14_224": (DYNAMIC, (56, 70), (1, 2)),
    "deit_tiny_patch16_224": (DYNAMIC, (64, 48), (2, 3)),
    "deit_tiny_distilled_patch16_224": (DYNAMIC, (64, 48), (1,)),
    "deit3_small_patch16_224": (DYNAMIC, (48, 48), (0, 2)),
    "vit_relpos_small_patch16_224": ({"img_size": (96, 64)}, (96, 64), (1, 2)),
    "beit_base_patch16_224": ({"img_size": (64, 64)}, (64, 64), (0, 1)),
    "cait_xxs24_224": ({"img_size": (64, 64)}, (64, 64), (1, 2)),
    "xcit_nano_12_p16_224": ({}, (64, 96), (1, 2)),
    "swin_tiny_patch4_window7_224": ({"img_size": (112, 112)}, (112, 112), (1, 2)),
    "hiera_tiny_224": ({"img_size": (96, 96)}, (96, 96), (1, 2)),
}  # fmt: skip


@functools.cache
def _whole(name: str) -> torch.nn.Module:
    with own_random_state(3):
        model = timm.create_model(name, **CASES[name][0], **({} if name in STAGED else {"depth": 4})).eval()
        for parameter in model.parameters():  # layer scales and position embeddings that start at nothing hide errors
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    return model


RAW = ("hiera_tiny_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224")


@pytest.mark.parametrize(("name", "norm"), [(n, n != RAW[0]) for n in CASES] + [(n, False) for n in RAW[1:]])
def test_tokens_are_those_of_timm(name: str, norm: bool) -> None:
    _, size, layers = CASES[name]
    whole = _whole(name)
    state = whole.state_dict()
    backbone = Backbone(name, layers, "random", norm=norm, image_size=size)
    cut = backbone.net.state_dict()
    backbone.net.load_state_dict({key: state[_plain(key, state)] for key in cut})
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        normal = (images - backbone.mean) / backbone.std
        want = whole.forward_intermediates(  # type: ignore[operator]
            normal, indices=list(layers), norm=norm, output_fmt="NCHW", intermediates_only=True
        )
    got = backbone(images)
    assert [m.shape for m in got] == [m.shape for m in want] and len(got) == len(layers)
    for ours, theirs, channels, stride in zip(got, want, backbone.channels, backbone.reductions, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert ours.shape[1:] == (channels, size[0] // stride, size[1] // stride)


def _plain(key: str, state: dict[str, torch.Tensor]) -> str:
    """The name that a tensor of the cut network has in the whole one."""
    found = [k for k in (key, key.removeprefix("model."), key.replace("layers_", "layers.", 1)) if k in state]
    return found[0]


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "test_vit_relpos", "eva02_tiny_patch14_224"])
def test_weight_files_at_another_size(name: str, tmp_path: Path) -> None:
    """A file of the whole model, whose position embeddings are of its own size, gives timm's tokens at ours."""
    size = (98, 70) if "patch14" in name else (96, 64)
    with own_random_state(5):
        whole = timm.create_model(name).eval()
        safetensors.torch.save_file(whole.state_dict(), tmp_path / "w.safetensors")
        options = DYNAMIC if outline(name).dynamic else {"img_size": size}
        overlay = {"state_dict": whole.state_dict()}
        want = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options).eval()
    ours = Backbone(name, (1, 2), tmp_path / "w.safetensors", norm=True, image_size=size)
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        x = (images - ours.mean) / ours.std
        for got, theirs in zip(
            ours(images), want.forward_intermediates(x, [1, 2], norm=True, intermediates_only=True), strict=True
        ):
            torch.testing.assert_close(got, theirs, rtol=1e-5, atol=1e-5)
    native = Backbone(name, (1, 2), tmp_path / "w.safetensors", norm=True)
    assert native.fingerprint() == ours.fingerprint() or not outline(name).dynamic


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Backbone("vit_small_patch14_dinov2", (1,), "random", image_size=256),
         r"multiples of its patch, 14: got 256 x 256 pixels, the nearest to 256 are 252 or 266"),
        (lambda: Backbone("test_vit", (1,), "random")(torch.zeros(1, 3, 64, 5)), "the nearest to 5 are 16"),
        (lambda: Backbone("test_vit", (6,), "random"), "has layers 0 to 5, got 6"),
        (lambda: Backbone("test_vit", ("blocks.9",), "random"), "no layer 'blocks.9'; it has blocks.0, "),
        (lambda: Backbone("test_vit_relpos", (1,), "random")(torch.zeros(1, 3, 64, 64)), r"takes \(160, 160\) pixels"),
        (lambda: Backbone("hiera_tiny_224", (0,), "random", norm=True)(torch.zeros(1, 3, 224, 224)), "norm"),
    ],
)  # fmt: skip
def test_what_a_network_does_not_take(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


CLASS = ("vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224",
         "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224")  # fmt: skip


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", CLASS)
def test_embeddings_are_class_tokens(name: str, norm: bool) -> None:
    _, size, layers = CASES[name]
    backbone = Backbone(name, layers, "random", norm=norm, image_size=size)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    maps, embeddings = backbone.embed(images)
    for one, other in zip(maps, backbone(images), strict=True):
        assert torch.equal(one, other)
    assert embeddings.shape == (2, backbone.channels[-1])
    if name == CLASS[-1]:  # stages, and no class token
        torch.testing.assert_close(embeddings, maps[-1].mean((2, 3)))
        return
    seen: list[torch.Tensor] = []
    model = backbone.net.model
    with model.blocks[layers[-1]].register_forward_hook(lambda module, given, out: seen.append(out)):
        backbone(images)
    with torch.inference_mode():
        torch.testing.assert_close(embeddings, (model.norm(seen[0]) if norm else seen[0])[:, 0])
