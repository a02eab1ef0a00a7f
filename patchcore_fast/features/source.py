"""What the pipeline wants of whatever gives it features: the interface, and what every kind of it does alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from patchcore_fast.kernels.surroundings import undisturbed

Size = tuple[int, int]
Seen = tuple[list[torch.Tensor], torch.Tensor | None]


class FeatureSource(torch.nn.Module):
    """Maps of images, evaluated without gradients. `Backbone` is one of timm's networks, `ModuleSource` a network of
    the user's; the extractor, tiles and banks know no more than this.

    Attributes
    ----------
    name : how banks and messages call it.
    net : module that gives a list of maps of normalised images.
    layers, channels, reductions : name, channels and stride of each map.
    mean, std : [3, 1, 1] normalisation, applied inside.
    fixed_size : the only (height, width) of images that it takes, None where there are more.
    multiple : (height, width) that the sides of images are multiples of.
    """

    name: str
    net: Any
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    mean: torch.Tensor
    std: torch.Tensor
    fixed_size: Size | None = None
    multiple: Size = (1, 1)
    _channels_last = False

    def _normalised_by(self, mean: Any, std: Any) -> None:
        for key, value in (("mean", mean), ("std", std)):
            given = torch.as_tensor(value, dtype=torch.float32)
            if given.shape not in ((3,), (3, 1, 1)) or not bool(torch.isfinite(given).all()):
                raise ValueError(f"Backbone: {key} must be 3 finite numbers, got {value!r}")
            self.register_buffer(key, given.reshape(3, 1, 1), persistent=False)
        if not bool((self.std > 0).all()):
            raise ValueError(f"Backbone: std must be positive, got {std!r}")

    @undisturbed
    @torch.inference_mode()
    def forward(self, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        """Maps [B, C, h, w] of images [B, 3, H, W] float in [0, 1], one for each of `layers`.

        With the `dtype` float16 or bfloat16 under torch.autocast, where the device computes in it: a processor that
        does not would emulate it, many times slower, and computes in float32.

        Raises
        ------
        ValueError, TypeError : no such images, or of a size that the network does not take.
        """
        return self._seen(images, dtype, lambda x: (self._running(x)(x), None))[0]

    @undisturbed
    @torch.inference_mode()
    def embed(
        self, images: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The maps of `forward`, and of the same pass a global embedding of each image, [B, E] float32.

        It is the class token beside the last map, where the network has one, else the mean of the last map over its
        places: E is the last of `channels`. Maps come as the network computes them, so the last one is the deepest.
        """
        maps, token = self._seen(images, dtype, self._with_token)
        return maps, maps[-1].float().flatten(2).mean(2) if token is None else token.float()

    def _with_token(self, x: torch.Tensor) -> Seen:
        """Maps of normalised images as `net` gives them, and the class token [B, C] beside the last, or None."""
        return self._running(x)(x), None

    def _running(self, _x: torch.Tensor) -> Any:
        """What computes the maps of normalised images as `net` does."""
        return self.net

    def _seen(self, images: torch.Tensor, dtype: torch.dtype, run: Callable[[torch.Tensor], Seen]) -> Seen:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"Backbone: images must be [B, 3, H, W], got shape {tuple(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"Backbone: images must be floating point in [0, 1], got {images.dtype}")
        size = (images.shape[2], images.shape[3])
        self.check_size(size)
        x = (images.to(self.mean) - self.mean) / self.std
        reduced = dtype != torch.float32 and computes_in(dtype, x.device)
        with torch.autocast(x.device.type, dtype=dtype) if reduced else nullcontext():
            try:
                maps, token = run(x.contiguous(memory_format=torch.channels_last))
            except AssertionError as error:  # timm's word for what a network does not take
                raise ValueError(
                    f"Backbone: {self.name} cannot do this with {size[0]} x {size[1]} pixels: {error}"
                ) from error
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last else list(maps), token

    def check_size(self, size: Size) -> None:
        """ValueError: images of this (height, width) do not fit; names the nearest that do."""
        if self.fixed_size is not None and size != self.fixed_size:
            raise ValueError(f"Backbone: {self.name} takes {self.fixed_size} pixels, got {size}")
        for side, step in zip(size, self.multiple, strict=True):
            if side % step:
                lower = side // step * step
                near = f"{lower} or {lower + step}" if lower else str(step)
                raise ValueError(
                    f"Backbone: {self.name} takes sides that are multiples of its patch, {step}: got {size[0]} x "
                    f"{size[1]} pixels, the nearest to {side} are {near}"
                )

    def at_one_size(self, _size: Size) -> Any:
        """`net` for images of one (height, width), as `export` writes it down."""
        return self.net

    def at_many_sizes(self) -> tuple[Any, int]:
        """`net` for images of many sizes, as `export` writes it down, and what their sides are then multiples of.

        ValueError: it is not known to take more than one size.
        """
        raise ValueError(f"{self.name} is not known to take images of more than one size")

    def train(self, mode: bool = True) -> FeatureSource:
        """Stay in evaluation mode: batch statistics would make features depend on the rest of the batch."""
        return super().train(False)

    def fingerprint(self) -> str:
        """Hex digest of the weights that make the features."""
        digest = hashlib.blake2b(digest_size=16)
        for key, value in sorted(self.net.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device's own instructions multiply float16 or bfloat16, as far as torch and oneDNN may use them."""
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    names, library = {
        torch.float16: (
            ("_is_amx_fp16_supported", "_is_avx512_fp16_supported"),
            torch.ops.mkldnn._is_mkldnn_fp16_supported,
        ),
        torch.bfloat16: (
            ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
            torch.ops.mkldnn._is_mkldnn_bf16_supported,
        ),
    }[dtype]
    return any(getattr(torch.cpu, name, bool)() for name in names) and library()
