"""A network of the user's as a source of features: its own maps, or those of modules in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from typing import Any

import torch

from patchcore_fast.config.families import GIVEN
from patchcore_fast.features.source import FeatureSource, Seen, Size
from patchcore_fast.kernels.surroundings import undisturbed

_OUTPUT = re.compile(r"output\.\d+")  # how outputs of the whole are called; a module's name may begin alike


class _Maps(torch.nn.Module):
    """The maps of a module: what it returns, or what modules in it return while it runs."""

    def __init__(self, module: Callable[..., Any], layers: tuple[str, ...], prefix: int) -> None:
        super().__init__()
        self.module, self.layers, self.prefix = module, layers, prefix

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.with_token(x)[0]

    def with_token(self, x: torch.Tensor) -> Seen:
        """Maps, and the first of the tokens before those of the last map, where it has such."""
        found = self._hooked(x) if self.layers else _named(self.module(x))
        maps = [_folded(name, value, self.prefix, x.shape[2:]) for name, value in found.items()]
        last = list(found.values())[-1]
        return maps, last[:, 0] if self.prefix and last.ndim == 3 else None

    def _hooked(self, x: torch.Tensor) -> dict[str, Any]:
        assert isinstance(self.module, torch.nn.Module)
        found: dict[str, Any] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                if name in found:
                    raise ValueError(f"Backbone.of: layer {name} runs twice in one image; name another")
                found[name] = output

            return hook

        # Put on for this call alone: the module stays as it was, and can be copied.
        hooks = [self.module.get_submodule(name).register_forward_hook(keep(name)) for name in self.layers]
        try:
            self.module(x)
        finally:
            for hook in hooks:
                hook.remove()
        if missing := [name for name in self.layers if name not in found]:
            raise ValueError(f"Backbone.of: layers {', '.join(missing)} do not run when the module does")
        return {name: found[name] for name in self.layers}


class ModuleSource(FeatureSource):
    """A module or function of images [B, 3, H, W] as a source of features.

    Parameters
    ----------
    module : an nn.Module, or any callable; it is put into evaluation mode and moved to `device`.
    layers : names of modules in it (`named_modules`), whose outputs are taken by hooks. Without them its own output is:
        a tensor, or a list, tuple or dict of tensors. The first one has the finest grid, which is the grid of patches.
    mean, std : normalisation, three numbers each, of images in [0, 1].
    prefix : tokens before those of the patches, where outputs are tokens [B, N, C]; the first is taken for the class
        token. Those of the patches are folded to maps with the images' ratio of sides. Maps are [B, C, h, w].
    image_size : side or (height, width) of images that it takes; one is sent through it to see channels and strides.
    device : where it runs.

    Raises
    ------
    ValueError, TypeError : a layer that it does not have, or outputs that are no maps.
    """

    @undisturbed
    def __init__(
        self,
        module: Callable[..., Any],
        layers: Sequence[str] = (),
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        prefix: int = 0,
        image_size: int | Size = 256,
        device: str | torch.device | None = None,
    ) -> None:
        """Look at the outputs of one black image."""
        super().__init__()
        if not callable(module):
            raise TypeError(f"Backbone.of: module must be an nn.Module or a function, got {type(module).__name__}")
        if isinstance(prefix, bool) or not isinstance(prefix, int) or prefix < 0:
            raise ValueError(f"Backbone.of: prefix must be a number of tokens, got {prefix!r}")
        _check_layers(module, tuple(layers))
        self.name = GIVEN + _called(module)
        self.net = _Maps(module, tuple(layers), prefix)
        self._normalised_by(mean, std)
        self.eval().to(device)
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        with torch.inference_mode():
            found = self(torch.zeros(1, 3, *size, device=self.mean.device))
        self.layers = tuple(layers) or tuple(f"output.{i}" for i in range(len(found)))
        self.channels = tuple(m.shape[1] for m in found)
        self.reductions = tuple(max(1, size[0] // m.shape[2]) for m in found)

    def _with_token(self, x: torch.Tensor) -> Seen:
        return self.net.with_token(x)

    def fingerprint(self) -> str:
        """Hex digest of all that makes the features: class, weights, layers, normalisation and prefix."""
        said = [self.name, *self.layers, self.mean.tolist(), self.std.tolist(), self.net.prefix]
        return hashlib.blake2b((super().fingerprint() + repr(said)).encode(), digest_size=16).hexdigest()


def as_source(
    backbone: Any, layers: Sequence[Any], size: Size | None, device: str | torch.device | None = None
) -> FeatureSource:
    """A source as it is, on the device; of anything else one is made, with `layers` where these are names in it.

    size : of the images that it will see, None where they differ.
    """
    if isinstance(backbone, FeatureSource):
        return backbone.to(device)
    names = tuple(x for x in layers if isinstance(x, str) and not _OUTPUT.fullmatch(x))
    return ModuleSource(backbone, names, image_size=size or 256, device=device)


def _check_layers(module: Any, layers: tuple[Any, ...]) -> None:
    if layers and not isinstance(module, torch.nn.Module):
        raise TypeError(f"Backbone.of: layers are modules of an nn.Module, and {_called(module)} is none")
    known = dict(module.named_modules()) if layers else {}
    for layer in layers:
        if not isinstance(layer, str) or not layer or layer not in known:
            some = ", ".join([name for name in known if name][:10])
            raise ValueError(f"Backbone.of: {_called(module)} has no module {layer!r}; it has {some}, ...")
    if len(set(layers)) != len(layers):
        raise ValueError(f"Backbone.of: layers repeat: {list(layers)}")


def _called(module: Any) -> str:
    kind = type(module) if isinstance(module, torch.nn.Module) or not hasattr(module, "__qualname__") else module
    return f"{kind.__module__}.{kind.__qualname__}"


def _named(output: Any) -> dict[str, Any]:
    if isinstance(output, torch.Tensor):
        return {"output.0": output}
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple) and output:
        return {f"output.{i}": value for i, value in enumerate(output)}
    raise TypeError(f"Backbone.of: the module must return tensors, got {type(output).__name__}")


def _folded(name: str, value: Any, prefix: int, size: Sequence[int]) -> torch.Tensor:
    """[B, C, h, w] of a map, or of tokens [B, N, C] of an image of this size."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise TypeError(f"Backbone.of: {name} must give a floating tensor, got {type(value).__name__}")
    if value.ndim == 4:
        return value
    if value.ndim != 3:
        raise ValueError(f"Backbone.of: {name} must give [B, C, h, w] or [B, N, C], got shape {tuple(value.shape)}")
    count = value.shape[1] - prefix
    height = isqrt(max(count, 0) * size[0] // size[1])
    if count < 1 or not height or count % height or height * size[1] != (count // height) * size[0]:
        raise ValueError(
            f"Backbone.of: {name} gives {value.shape[1]} tokens, {count} without prefix={prefix}: no grid of an image "
            f"of {size[0]} x {size[1]} pixels"
        )
    return value[:, prefix:].transpose(1, 2).reshape(len(value), -1, height, count // height)
