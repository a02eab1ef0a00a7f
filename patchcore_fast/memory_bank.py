"""The memory bank: the chosen patch features with all that is needed to use them again, in one safetensors
file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.errors import BankError
from patchcore_fast.files import atomic_write
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.search import ExactSearch, SearchIndex, build_index, load_index, restored, stored

try:
    import safetensors
    import safetensors.torch
except ImportError as error:
    raise ImportError('patchcore_fast.memory_bank needs safetensors: pip install "patchcore_fast[pipeline]"') from error

FORMAT = "patchcore_fast.memory_bank"
FORMAT_VERSION = 1
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # of features


@dataclass(frozen=True)
class MemoryBank:
    """Patch features of normal images.

    Attributes
    ----------
    features : [M, D] of the type that config["precision"] names, float32 where it names none; never projected.
    indices : [M] int64, row of each among all training patches, in selection order.
    positions : [M, 3] int32, (image, row, column) of each on its image's patch grid, or None.
    projection : [D, d] float32 that the selection worked in (features @ projection), or None.
    config : what made the features, `PatchCoreConfig.to_dict()`; empty for a bank of foreign features.
    threshold : image score above which an image is anomalous, or None.
    normal_scores : [n] float64, scores of training images by banks without them (the threshold's source), or None.
    images : names of the training images that `positions` counts, relative to their folder.
    grid : (h, w) of patches per image, or None when it differs between images.
    patches : number of training patches the bank was chosen from.
    weights : fingerprint of the backbone's weights, "" when unknown.
    versions : package -> version at the time of writing.
    searcher : the index over `features` that `search` asks, None for our exact search; see `with_index`.
    """

    features: torch.Tensor  # [M, D]
    indices: torch.Tensor  # [M]
    positions: torch.Tensor | None = None  # [M, 3]
    projection: torch.Tensor | None = None  # [D, d]
    config: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    normal_scores: torch.Tensor | None = None  # [n]
    images: list[str] = field(default_factory=list)
    grid: tuple[int, int] | None = None
    patches: int = 0
    weights: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    searcher: SearchIndex | None = None

    @undisturbed
    def __post_init__(self) -> None:
        """Check that the parts belong together: ValueError says which does not."""
        f, i, p = self.features, self.indices, self.positions
        precision = self.config.get("precision", "float32") if isinstance(self.config, dict) else "float32"
        if f.ndim != 2 or 0 in f.shape or f.dtype != _DTYPES.get(precision):
            raise ValueError(f"MemoryBank: features must be [M, D] {precision}, got {tuple(f.shape)} {f.dtype}")
        if not bool(torch.isfinite(f).all()):
            bad = int((~torch.isfinite(f).all(dim=1)).sum())
            raise ValueError(f"MemoryBank: {bad} of {len(f)} feature rows are not finite")
        if i.shape != (len(f),) or i.dtype != torch.int64:
            raise ValueError(f"MemoryBank: indices must be [{len(f)}] int64, got {tuple(i.shape)} {i.dtype}")
        if int(i.min()) < 0 or (self.patches and int(i.max()) >= self.patches):
            raise ValueError(
                f"MemoryBank: indices must lie in [0, {self.patches}), got {int(i.min())} to {int(i.max())}"
            )
        if p is not None and (p.shape != (len(f), 3) or p.dtype != torch.int32):
            raise ValueError(f"MemoryBank: positions must be [{len(f)}, 3] int32, got {tuple(p.shape)} {p.dtype}")
        q = self.projection
        if q is not None and (q.ndim != 2 or q.shape[0] != f.shape[1] or not bool(torch.isfinite(q).all())):
            raise ValueError(f"MemoryBank: projection must be finite [{f.shape[1]}, d], got {tuple(q.shape)}")
        if self.threshold is not None and not (isinstance(self.threshold, Real) and isfinite(self.threshold)):
            raise ValueError(f"MemoryBank: threshold must be a finite number or None, got {self.threshold!r}")
        s = self.normal_scores
        if s is not None and (s.ndim != 1 or s.dtype != torch.float64 or not bool(torch.isfinite(s).all())):
            raise ValueError(f"MemoryBank: normal_scores must be finite [n] float64, got {tuple(s.shape)} {s.dtype}")
        for name, kind in (("config", dict), ("images", list), ("patches", int), ("weights", str), ("versions", dict)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"MemoryBank: {name} must be a {kind.__name__}, got {getattr(self, name)!r}")

    def __len__(self) -> int:
        """M, the number of rows."""
        return len(self.features)

    @undisturbed
    def search(self, query: torch.Tensor, k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Euclidean distances [Q, k] float32, ascending, and bank rows [Q, k] int64 of query [Q, D]'s
        neighbours; an approximate index may miss some, see `search.SearchIndex`."""
        if query.ndim != 2 or query.shape[1] != self.features.shape[1]:
            raise ValueError(
                f"MemoryBank.search: query must be [Q, {self.features.shape[1]}], got shape {tuple(query.shape)}"
            )
        return (self.searcher or ExactSearch(self.features)).search(query, k)

    def with_index(self, kind: str, seed: int = 0) -> MemoryBank:
        """The same bank with another search, made anew; `kind` and `seed` as `search.build_index` takes them."""
        return replace(self, searcher=None if kind == "exact" else build_index(kind, self.features, seed))

    @undisturbed
    def to(self, device: str | torch.device) -> MemoryBank:
        """The same bank with its features on a device; what is only looked up stays where it is."""
        features, index = self.features.to(device), self.searcher
        if index is not None and features is not self.features:
            index = load_index(index.kind, features, index.to_bytes())
        return replace(self, features=features, searcher=index)

    @undisturbed
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all. OSError is the file system's (a full disk, no
        folder)."""
        tensors = {"features": self.features, "indices": self.indices}
        tensors |= {} if self.positions is None else {"positions": self.positions}
        tensors |= {} if self.projection is None else {"projection": self.projection}
        tensors |= {} if self.normal_scores is None else {"normal_scores": self.normal_scores}
        facts = {name: getattr(self, name) for name in _FACTS} | {"versions": self.versions or _versions()}
        about_index, more = stored(self.searcher)
        tensors |= more
        metadata = {
            **about_index,
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "facts": json.dumps(facts, allow_nan=False),
        }
        content = safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata)
        with atomic_write(path) as f:
            f.write(content)

    @classmethod
    @undisturbed
    def load(cls, path: str | os.PathLike[str], index: str | None = None) -> MemoryBank:
        """Read what `save` wrote; with `index` that search is made anew, whatever the file has.

        Raises
        ------
        BankError : missing, truncated, foreign or inconsistent file, or one of a newer format; names the
            path.
        """
        path = Path(path)
        if not path.is_file():
            raise BankError(f"{path}: no such bank file")
        try:
            with safetensors.safe_open(str(path), framework="pt") as f:
                metadata = f.metadata() or {}
                _check_format(path, metadata)
                tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (no mapping, it only has keys)
        except (safetensors.SafetensorError, OSError, RuntimeError) as error:
            raise BankError(f"{path}: damaged, or no safetensors file ({error})") from error
        try:
            facts = json.loads(metadata["facts"])
            facts = {name: facts[name] for name in (*_FACTS, "versions")}
            facts["grid"] = None if facts["grid"] is None else (int(facts["grid"][0]), int(facts["grid"][1]))
            bank = cls(**{name: tensors[name] for name in ("features", "indices")},
                       positions=tensors.get("positions"), projection=tensors.get("projection"),
                       normal_scores=tensors.get("normal_scores"), **facts)  # fmt: skip
            if index is None:
                return replace(bank, searcher=restored(metadata, tensors, bank.features))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise BankError(f"{path}: inconsistent memory bank ({what})") from error
        return bank.with_index(index)


_FACTS = ("config", "threshold", "images", "grid", "patches", "weights")


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise BankError(f"{path}: a safetensors file, but not a memory bank of patchcore_fast")
    version = metadata.get("format_version", "")
    if not version.isdigit():
        raise BankError(f"{path}: format version {version!r} is not a number")
    if int(version) > FORMAT_VERSION:
        raise BankError(
            f"{path}: bank format {version} is newer than {FORMAT_VERSION}, the newest this version reads; "
            "update patchcore_fast"
        )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("patchcore_fast", "torch", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
