"""A network of the user's: hooks, tokens, functions, and the banks that are made with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from patchcore_fast.errors import BankError
from patchcore_fast.features import Backbone
from patchcore_fast.features.modules import as_source
from patchcore_fast.features.networks import own_random_state
from patchcore_fast.model import PatchCore, PatchCoreConfig

NORMAL: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _model(name: str, seed: int = 0) -> torch.nn.Module:
    with own_random_state(seed):
        return timm.create_model(name, num_classes=3).eval()


def _images(n: int = 2, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_hooks_give_the_maps_of_named_modules() -> None:
    model = _model("test_resnet")
    source = Backbone.of(model, layers=("layer1", "layer3"), image_size=(64, 96), **NORMAL)
    images = _images()
    with torch.inference_mode():
        want = model.forward_intermediates((images - source.mean) / source.std, [1, 3], intermediates_only=True)  # type: ignore[operator]
    assert source.layers == ("layer1", "layer3") and source.channels == tuple(m.shape[1] for m in want)
    assert source.reductions == tuple(64 // m.shape[2] for m in want) and source.name.startswith("module:timm.")
    assert all(torch.equal(a, b) for a, b in zip(source(images), want, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_tokens_are_folded_to_the_images_ratio() -> None:
    model = _model("test_vit")
    source = Backbone.of(model, layers=("blocks.2",), prefix=1, image_size=(64, 96))
    with torch.inference_mode():
        (want,) = model.forward_intermediates(_images(), [2], intermediates_only=True)  # type: ignore[operator]
    (got,) = source(_images())
    assert got.shape == (2, 64, 4, 6) and torch.allclose(got, want, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"gives 25 tokens, 25 without prefix=0: no grid of an image of 64 x 96 pixels"
    ):
        Backbone.of(model, layers=("blocks.2",), image_size=(64, 96))


def test_functions_and_several_outputs() -> None:
    def pyramid(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": F.avg_pool2d(x, 4), "b": F.avg_pool2d(x, 8)}

    source = Backbone.of(pyramid, image_size=64, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert source.layers == ("output.0", "output.1") and source.reductions == (4, 8) and source.channels == (3, 3)
    torch.testing.assert_close(source(_images())[1], F.avg_pool2d((_images() - 0.5) / 0.25, 8))
    other = Backbone.of(pyramid, image_size=64)
    assert source.fingerprint() == Backbone.of(pyramid, image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3).fingerprint()
    assert source.fingerprint() != other.fingerprint()


def test_a_module_may_be_called_as_outputs_are() -> None:
    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = torch.nn.ModuleDict({"dense": torch.nn.Conv2d(3, 5, 8, 8)})

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [F.avg_pool2d(x, 4), self.output["dense"](x)]

    source = as_source(Heads(), ("output.dense",), (64, 64))
    assert source.layers == ("output.dense",) and source.channels == (5,)
    source = as_source(Heads(), ("output.0", "output.1"), (64, 64))  # as a bank has them
    assert source.layers == ("output.0", "output.1") and source.channels == (3, 5)


def test_a_bank_of_a_module_wants_the_module_again(tmp_path: Path) -> None:
    path, images = tmp_path / "bank.safetensors", _images(4, 64, 64)
    config = PatchCoreConfig(layers=("layer1", "layer2"), image_size=64, ratio=0.2, device="cpu", sigma=2.0)
    model = PatchCore(config, backbone=_model("test_resnet"), progress=False).fit(images)
    want = [p.score for p in model.predict(_images(3, 64, 64))]
    assert model.config.backbone == "module:timm.models.resnet.ResNet" and model.config.weights == "given"
    model.save(path)
    again = PatchCore.load(path, backbone=_model("test_resnet"), progress=False)
    assert [p.score for p in again.predict(_images(3, 64, 64))] == want
    with pytest.raises(BankError, match=r"its backbone was an object, timm\.models\.resnet\.ResNet: give it with"):
        PatchCore.load(path)
    with pytest.raises(BankError, match=r"was made with other weights of .*, or with other layers or normalisation"):
        PatchCore.load(path, backbone=_model("test_resnet", seed=1))
    with pytest.raises(BankError, match="or with other layers or normalisation"):
        PatchCore.load(path, backbone=Backbone.of(_model("test_resnet"), layers=("layer1", "layer2"), **NORMAL))


class _Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.unused = torch.nn.Conv2d(3, 3, 1), torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv(self.conv(x))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Backbone.of(3), TypeError, "module must be an nn.Module or a function, got int"),
        (lambda: Backbone.of(_Twice(), layers=("cov",)), ValueError, r"has no module 'cov'; it has conv, unused"),
        (lambda: Backbone.of(_Twice(), layers=("conv",)), ValueError, "layer conv runs twice"),
        (lambda: Backbone.of(_Twice(), layers=("unused",)), ValueError, "layers unused do not run"),
        (lambda: Backbone.of(_Twice(), layers=("conv", "conv")), ValueError, "layers repeat"),
        (lambda: Backbone.of(lambda x: x, layers=("conv",)), TypeError, "layers are modules of an nn.Module"),
        (lambda: Backbone.of(lambda x: None), TypeError, "must return tensors, got NoneType"),
        (lambda: Backbone.of(lambda x: x[0, 0]), ValueError, r"must give \[B, C, h, w\] or \[B, N, C\]"),
        (lambda: Backbone.of(lambda x: x.int()), TypeError, "must give a floating tensor"),
        (lambda: Backbone.of(lambda x: x, std=(1, 0, 1)), ValueError, "std must be positive"),
        (lambda: Backbone.of(lambda x: x, mean=(1, 0)), ValueError, "mean must be 3 finite numbers"),
        (lambda: Backbone.of(lambda x: x, prefix=-1), ValueError, "prefix must be a number of tokens"),
    ],
)  # fmt: skip
def test_what_is_no_source(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


class _Tokens(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A class token of ones, a register of twos, and 4 x 4 places of the mean colour."""
        places = torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(2).transpose(1, 2)
        return torch.cat([torch.ones_like(places[:, :1]), 2 * torch.ones_like(places[:, :1]), places], 1)


def test_the_first_token_is_the_embedding() -> None:
    images = _images(2, 64, 64)
    maps, embeddings = Backbone.of(_Tokens(), prefix=2, image_size=64).embed(images)
    assert embeddings.tolist() == [[1.0] * 3] * 2 and maps[0].shape == (2, 3, 4, 4)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, 2), torch.nn.Conv2d(5, 7, 3, 2))
    source = Backbone.of(net, layers=("0", "1"), image_size=64)
    maps, embeddings = source.embed(images)
    torch.testing.assert_close(embeddings, maps[1].mean((2, 3)))
    assert all(torch.equal(one, other) for one, other in zip(maps, source(images), strict=True))
