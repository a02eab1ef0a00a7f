"""The file of a method's model: safetensors, as strict as a bank's (docs/bank-file.md), and never pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.bank_file import (
    TYPES,
    Span,
    bank_error,
    check_quantiles,
    installed_versions,
    is_finite,
    read_file,
    read_header,
    read_json,
    span_of,
    told,
    version_of,
)
from patchcore_fast.config import grouped
from patchcore_fast.config.methods import MethodConfig
from patchcore_fast.errors import BankError
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.memory_bank import METHOD_FORMAT, write_tensors

Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # of tensors by name
FORMAT_VERSION = 2  # 1: no pixel threshold
IMAGES = 1 << 20  # most training images
_NAME, _DIMENSIONS = 300, 8  # characters of a tensor's name, and what it may have of dimensions
_HELD_OUT = ("normal_scores", "normal_pixels")  # tensors beside the method's own
_FACTS = ("config", "threshold", "pixel_threshold", "calibrated", "images", "count", "weights", "versions")


@dataclass(frozen=True)
class Learned:
    """What is known of a fit beside the method's tensors; of a bank `MemoryBank` has the same.

    What does not fit is a ValueError or TypeError.

    Attributes
    ----------
    threshold : image score above which an image is anomalous, or None.
    normal_scores : [n] float64, scores of training images by models without them (the threshold's source), or None.
    config : settings, as `MethodConfig.to_dict` has them.
    pixel_threshold, normal_pixels, calibrated : as of a `MemoryBank`.
    images : names of the training images, empty when unknown.  count : how many there were.
    weights : fingerprint of the backbone's weights.
    versions : package -> version at the time of writing.
    """

    threshold: float | None
    normal_scores: torch.Tensor | None
    config: dict[str, Any]
    images: list[str]
    weights: str
    count: int
    versions: dict[str, str] = field(default_factory=installed_versions)
    pixel_threshold: float | None = None
    normal_pixels: torch.Tensor | None = None  # [n, Q]
    calibrated: int = 0

    def __post_init__(self) -> None:
        """Check the types; a setting beside the groups goes into its group."""
        for name, kind in (("config", dict), ("images", list), ("weights", str), ("count", int), ("versions", dict),
                           ("calibrated", int)):  # fmt: skip
            if not isinstance(given := getattr(self, name), kind) or isinstance(given, bool):
                raise TypeError(f"Learned: {name} must be a {kind.__name__}, got {given!r}")
        if not all(isinstance(x, str) for x in [*self.images, *self.versions.values()]):
            raise TypeError("Learned: images must be names, and versions texts")
        object.__setattr__(self, "config", grouped(self.config))
        if not 1 <= self.count <= IMAGES or len(self.images) not in (0, self.count):
            raise ValueError(f"Learned: {len(self.images)} names of {self.count} images, at most {IMAGES}")
        for name in ("threshold", "pixel_threshold"):
            if (value := getattr(self, name)) is not None and not is_finite(value):
                raise ValueError(f"Learned: {name} must be a finite number or None, got {value!r}")
        check_quantiles("Learned", self.normal_pixels)
        most = self.calibrated or self.count
        if self.normal_pixels is not None and len(self.normal_pixels) > most:
            raise ValueError(f"Learned: {len(self.normal_pixels)} normal_pixels of {most} images")
        s = self.normal_scores
        if s is None:
            return
        if s.ndim != 1 or not 1 <= len(s) <= most or s.dtype != torch.float64 or not torch.isfinite(s).all():
            raise ValueError(
                f"Learned: normal_scores must be finite [n] float64 with n at most {most}, got "
                f"{tuple(s.shape)} {s.dtype}"
            )

    @property
    def fitted_on(self) -> str:
        """ "fitted on 34 images"."""
        return f"fitted on {'1 image' if self.count == 1 else f'{self.count:,} images'}"

    @property
    def settings(self) -> MethodConfig:
        """The settings, checked. TypeError, ValueError: as `MethodConfig`."""
        return MethodConfig.from_dict(self.config)


@undisturbed
def write_model(path: str | os.PathLike[str], learned: Learned, tensors: dict[str, torch.Tensor]) -> None:
    """Write one file, whole or not at all. OSError is the file system's."""
    held = {name: value for name in _HELD_OUT if (value := getattr(learned, name)) is not None}
    facts = {name: getattr(learned, name) for name in _FACTS}
    about = {"format": METHOD_FORMAT, "format_version": str(FORMAT_VERSION), "method": learned.config["method"]}
    write_tensors(path, {**tensors, **held}, about, facts)


@undisturbed
def read_model(path: str | os.PathLike[str]) -> tuple[Learned, dict[str, torch.Tensor]]:
    """What `write_model` wrote. Whether the tensors are those that the method expects, `Method.load` looks.

    Raises
    ------
    BankError : missing, damaged, foreign, changed or inconsistent file, or one of a newer format; one line that names
        the path.
    """
    path = Path(path)
    with told(path, "model"):
        metadata, tensors, _ = read_file(path, _check_format, _span)
    try:
        if "digest" not in metadata:
            raise ValueError("it has no digest")
        facts = {"pixel_threshold": None, "calibrated": 0} | read_json(metadata["facts"])  # not in files of version 1
        held: dict[str, Any] = {name: tensors.pop(name, None) for name in _HELD_OUT}
        learned = Learned(**held, **{name: facts[name] for name in _FACTS})
        if learned.settings.method != metadata["method"]:
            raise ValueError(f"of method {metadata['method']!r}, its settings of {learned.settings.method!r}")
        check_finite(tensors)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise bank_error(path, f"inconsistent model ({what})") from error
    return learned, tensors


def check_tensors(tensors: Mapping[str, torch.Tensor], wanted: Shapes) -> None:
    """ValueError: other names, types or shapes."""
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise ValueError(f"{missing[0]} is missing")
    if foreign := sorted(tensors.keys() - wanted.keys()):
        raise ValueError(f"it has no {foreign[0]!r}")
    for name, (dtype, shape) in wanted.items():
        found = tensors[name]
        if found.dtype != dtype or tuple(found.shape) != shape:
            raise ValueError(f"{name} must be {list(shape)} {dtype}, got {list(found.shape)} {found.dtype}")


def check_finite(tensors: dict[str, torch.Tensor]) -> None:
    """ValueError: numbers of a tensor are not finite."""
    if bad := [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]:
        raise ValueError(f"{bad[0]} has numbers that are not finite")


def method_of(path: str | os.PathLike[str]) -> str | None:
    """The method that a file says it is a model of; None for a bank, another file, and none."""
    try:
        with open(path, "rb") as f:
            metadata = read_header(f, Path(path))[0]
    except (BankError, OSError):
        return None
    return metadata.get("method", "") if metadata.get("format") == METHOD_FORMAT else None


def _check_format(path: Path, metadata: dict[str, str]) -> int:
    if metadata.get("format") != METHOD_FORMAT:
        raise BankError(f"{path}: a safetensors file, but not a method's model of patchcore_fast")
    return version_of(path, metadata, "model", FORMAT_VERSION)


def _span(name: str, entry: Any) -> Span:
    if len(name) > _NAME:
        raise ValueError(f"{name[:20]!r}... is too long a name")
    return span_of(name, entry, tuple(TYPES), _DIMENSIONS)
