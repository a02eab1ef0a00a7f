"""Other methods beside PatchCore, on the same backbones, data, metrics and files (docs/methods.md)."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.config.methods import settings_kind

if TYPE_CHECKING:
    from patchcore_fast.methods.base import Method
    from patchcore_fast.model import PatchCore

# Name -> (module here, class); read when one is asked for.
_CLASSES = {
    "padim": ("padim", "Padim"),
    "subspace": ("subspace", "Subspace"),
    "simplenet": ("simplenet", "SimpleNet"),
    "rd": ("reverse_distillation", "ReverseDistillation"),
}


def method_class(name: str) -> type[Method]:
    """The class of a method. ValueError: no such method."""
    settings_kind(name)
    module, kind = _CLASSES[name]
    found: type[Method] = getattr(import_module(f"{__name__}.{module}"), kind)
    return found


def make_method(name: str, config: Any = None, settings: Any = None, **options: Any) -> Method:
    """A model of a method by its name; arguments as of `Method`, with `config` a `MethodConfig` of it too."""
    from patchcore_fast.config.methods import MethodConfig

    if isinstance(config, MethodConfig):
        config, settings = config.base, settings or config.settings
    return method_class(name)(config, settings, **options)


def load_any(path: str | os.PathLike[str], device: Any = None, **options: Any) -> PatchCore | Method:
    """The model of a file, a bank's or another method's, or of a folder of checkpoints (`Method.load`).

    Arguments and errors as of `PatchCore.load`.
    """
    from patchcore_fast.bank_file import bank_error
    from patchcore_fast.methods.checkpoint import read_about
    from patchcore_fast.methods.file import method_of
    from patchcore_fast.model import PatchCore

    if (method := method_of(path)) is None and os.path.isdir(path):
        method = str(read_about(Path(path))["config"].get("method", ""))
    if method is None:
        return PatchCore.load(path, device, **options)
    if method not in _CLASSES:
        raise bank_error(path, f"a model of the method {method!r}, which this version does not know")
    options.pop("index", None)  # of a bank's search
    return method_class(method).load(path, device, **options)
