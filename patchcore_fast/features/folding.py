"""Batch norms folded into the convolutions before them: a network in evaluation has fewer steps."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLOSE = 1e-3  # of the largest value of a map: float32 rounds otherwise in another order, an error is far larger


def folded(net: nn.Module, size: tuple[int, int], device: torch.device) -> nn.Module:
    """A network that computes the same maps with fewer steps; `net` itself where nothing can be folded.

    A batch norm in evaluation is a scale and a shift for each channel, which its convolution can do by its weights
    (Jacob et al., "Quantization and Training of Neural Networks", CVPR 2018, 3.2). Which convolution feeds which norm
    is seen on an image of noise, the same in every process; its maps are compared, and where they are not close the
    network is left as it is, as one that has another use for a convolution's output is.

    Parameters
    ----------
    net : in evaluation, [1, 3, H, W] -> list of maps, on this device. It is not changed.
    size : (H, W), one that it takes.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        return net
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        image = torch.randn(1, 3, *size, generator=generator, dtype=torch.float32, device="cpu").to(device)
        pairs = _pairs(net, image)
        if not pairs:
            return net
        made = copy.deepcopy(net)
        for convolution, norm in pairs:
            old: Any = made.get_submodule(norm)
            _put(made, convolution, fuse_conv_bn_eval(cast(nn.Conv2d, made.get_submodule(convolution)), old))
            _put(made, norm, nn.Sequential(old.drop, old.act) if hasattr(old, "act") else nn.Identity())  # timm's have
        made.to(memory_format=torch.channels_last)
        same = all(_close(a, b) for a, b in zip(net(image), made(image), strict=True))
    return made if same else net


def _pairs(net: nn.Module, image: torch.Tensor) -> list[tuple[str, str]]:
    """(convolution, batch norm) by name, of norms whose input is what that convolution gave; each runs once."""
    gave: dict[int, str] = {}
    kept: list[torch.Tensor] = []  # an identity that is in use names nothing else
    found: list[tuple[str, str]] = []
    runs: dict[str, int] = {}

    def after(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            kept.append(output)
            gave[id(output)] = name

        return hook

    def before(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            runs[name] = runs.get(name, 0) + 1
            if id(inputs[0]) in gave:
                found.append((gave[id(inputs[0])], name))

        return hook

    handles = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after(name)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats and not module.training:
            handles.append(module.register_forward_pre_hook(before(name)))
    try:
        net(image)
    finally:
        for handle in handles:
            handle.remove()
    once = [pair for pair in found if all(runs[name] == 1 for name in pair)]
    return [pair for pair in once if sum(other[0] == pair[0] for other in found) == 1]


def _put(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= CLOSE * a.abs().max())
