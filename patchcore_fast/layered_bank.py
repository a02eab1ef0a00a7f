"""A bank for each layer, in one file: `MemoryBank`s of the same images, and the scales on which their scores meet."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.bank_file import bank_error, read_json
from patchcore_fast.bank_size import BankSize, size_of
from patchcore_fast.config import grouped
from patchcore_fast.errors import BankError
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.memory_bank import LAYERS, MemoryBank, assembled, reading, write_bank

MOST = 100  # layers; the names of their tensors begin with two digits at most
_HELD_OUT = ("normal_scores", "normal_pixels")  # tensors of the whole
_SHARED = ("images", "grid", "patches", "weights")  # what a layer does not have for itself


@dataclass(frozen=True)
class LayeredBank:
    """Banks of one layer each, chosen of the same patches.

    A patch is scored by each of them on its own columns, and its score is the mean of theirs over their scales
    (docs/layers.md).

    Attributes
    ----------
    parts : a bank for each layer, the shallowest first; without threshold and scores of their own.
    scales : of the scores of each, positive: the robust standard deviation on training images that it was chosen
        without.
    config, threshold, normal_scores, pixel_threshold, normal_pixels, calibrated : as of a `MemoryBank`, of the joined
        scores.  size : of all parts together.
    """

    parts: tuple[MemoryBank, ...]
    scales: tuple[float, ...]
    config: dict[str, Any]
    threshold: float | None = None
    normal_scores: torch.Tensor | None = None  # [n]
    size: BankSize | None = None
    pixel_threshold: float | None = None
    normal_pixels: torch.Tensor | None = None  # [n, Q]
    calibrated: int = 0

    def __post_init__(self) -> None:
        """ValueError or TypeError: parts that do not belong together."""
        if not 1 <= len(self.parts) <= MOST or len(self.scales) != len(self.parts):
            raise ValueError(f"LayeredBank: 1 to {MOST} parts and as many scales are wanted, got {len(self.parts)} "
                             f"and {len(self.scales)}")  # fmt: skip
        if not all(type(s) is float and isfinite(s) and s > 0 for s in self.scales):
            raise ValueError(f"LayeredBank: scales must be positive and finite, got {self.scales!r}")
        first = self.parts[0]
        for part in self.parts[1:]:
            if other := [name for name in _SHARED if getattr(part, name) != getattr(first, name)]:
                raise ValueError(f"LayeredBank: its parts differ in {other[0]}")
        # What is said of the whole is held to the same rules as of one bank.
        whole = replace(first, config=self.config, threshold=self.threshold, normal_scores=self.normal_scores,
                        pixel_threshold=self.pixel_threshold, normal_pixels=self.normal_pixels,
                        calibrated=self.calibrated, searcher=None)  # fmt: skip
        object.__setattr__(self, "config", grouped(whole.config))

    def __len__(self) -> int:
        """Rows of all parts."""
        return sum(map(len, self.parts))

    @property
    def width(self) -> int:
        """Numbers of a patch, of all layers."""
        return sum(part.width for part in self.parts)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Columns [begin, end) of each part in the joined features of a patch."""
        return list(pairwise(accumulate((part.width for part in self.parts), initial=0)))

    @property
    def positions(self) -> torch.Tensor | None:
        """(image, row, column) of the rows of all parts, [len, 3] int32, or None."""
        found = [part.positions for part in self.parts if part.positions is not None]
        return torch.cat(found) if len(found) == len(self.parts) else None

    @property
    def images(self) -> list[str]:
        """Names of the training images; see `MemoryBank`, as of the following."""
        return self.parts[0].images

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) of patches per image, None when it differs."""
        return self.parts[0].grid

    @property
    def patches(self) -> int:
        """Training patches that each part was chosen from."""
        return self.parts[0].patches

    @property
    def weights(self) -> str:
        """Fingerprint of the backbone's weights."""
        return self.parts[0].weights

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version at the time of writing."""
        return self.parts[0].versions

    def with_index(self, kind: str, seed: int = 0) -> LayeredBank:
        """The same banks with another search in each; see `MemoryBank.with_index`."""
        return replace(self, parts=tuple(part.with_index(kind, seed) for part in self.parts))

    def to(self, device: str | torch.device) -> LayeredBank:
        """The same banks with their features on a device."""
        return replace(self, parts=tuple(part.to(device) for part in self.parts))

    @undisturbed
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, whole or not at all; see `MemoryBank.save`."""
        tensors = {name: value for name in _HELD_OUT if (value := getattr(self, name)) is not None}
        more: dict[str, str] = {}
        for number, part in enumerate(self.parts):
            own, about_index = part.stored()
            tensors |= {f"{number}.{name}": value for name, value in own.items()}
            more |= about_index
        more[LAYERS] = json.dumps(
            [{"scale": s, "radius": part.radius} for s, part in zip(self.scales, self.parts, strict=True)]
        )
        facts = self.parts[0].facts() | {"config": self.config, "radius": None}
        facts |= {name: getattr(self, name) for name in ("threshold", "pixel_threshold", "calibrated")}
        facts |= {} if self.size is None else {"size": self.size.to_dict()}
        write_bank(path, tensors, facts, more)


Bank = MemoryBank | LayeredBank


@undisturbed
def load_bank(path: str | os.PathLike[str], index: str | None = None) -> Bank:
    """Read what either `save` wrote; arguments and errors as `MemoryBank.load`."""
    path = Path(path)
    with reading(path) as (metadata, tensors, version):
        if LAYERS not in metadata:
            return assembled(path, metadata, tensors, version, index)
        try:
            layers = read_json(metadata[LAYERS])
            if not isinstance(layers, list) or not 1 <= len(layers) <= MOST:
                raise ValueError(f"a list of 1 to {MOST} layers is wanted")
            named = [{name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{number}.")}
                     for number in range(len(layers))]  # fmt: skip
            known = {*_HELD_OUT, *(f"{number}.{name}" for number, own in enumerate(named) for name in own)}
            if foreign := sorted(tensors.keys() - known):
                raise ValueError(f"tensor {foreign[0]!r} is of none of {len(layers)} layers")
            facts = read_json(metadata["facts"])
            size = size_of(facts)
            parts = []
            for layer, own in zip(layers, named, strict=True):
                said = facts | {"radius": layer["radius"], "threshold": None, "pixel_threshold": None, "size": None,
                                "calibrated": 0}  # fmt: skip
                parts.append(assembled(path, metadata | {"facts": json.dumps(said)}, own, version, index))
            return LayeredBank(tuple(parts), tuple(layer["scale"] for layer in layers), facts["config"],
                               facts["threshold"], tensors.get("normal_scores"), size,
                               facts.get("pixel_threshold"), tensors.get("normal_pixels"),
                               facts.get("calibrated", 0))  # fmt: skip
        except BankError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise bank_error(path, f"inconsistent banks of layers ({what})") from error
