"""The memory bank: the chosen patch features with all that is needed to use them again, in one safetensors
file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.bank_file import (
    bank_error,
    bank_span,
    check_quantiles,
    digest,
    installed_versions,
    is_finite,
    ordered_header,
    read_file,
    read_json,
    told,
    version_of,
)
from patchcore_fast.bank_size import BankSize, size_of
from patchcore_fast.config import SearchSettings, grouped, recorded
from patchcore_fast.errors import BankError
from patchcore_fast.files import atomic_write
from patchcore_fast.inputs import PRECISIONS
from patchcore_fast.kernels.surroundings import undisturbed
from patchcore_fast.search import (
    ExactSearch,
    HighestSearch,
    SearchIndex,
    build_index,
    load_index,
    stored,
    widened,
    with_price,
)

try:
    import safetensors.torch
except ImportError as error:
    raise ImportError('patchcore_fast.memory_bank needs safetensors: pip install "patchcore_fast[pipeline]"') from error

FORMAT = "patchcore_fast.memory_bank"
METHOD_FORMAT = "patchcore_fast.method"  # of the files of other methods, see `methods.file`
# 5: no pixel threshold; 4: no price; 3: no learnt reductions; 2: settings without groups; 1: no digest, and faiss's
# bytes for its index
FORMAT_VERSION = 6
LAYERS = "layers"  # metadata of a file that has a bank for each layer; see `layered_bank`
SIDE, CELLS = 16_384, 1 << 24  # most patches on a side of an image's grid, and on all of it
IMAGES = 1 << 20  # most training images where no names count them


@dataclass(frozen=True)
class MemoryBank:
    """Patch features of normal images.

    The parts are held against each other when one is made: what does not fit is a ValueError or TypeError.

    Attributes
    ----------
    features : [M, D] of the type that config["features"]["precision"] names, float32 where none; never projected.
    indices : [M] int64, row of each among all training patches, in selection order.
    positions : [M, 3] int32, (image, row, column) of each on its image's patch grid, or None.
    projection : [D, d] float32 that the selection worked in (features @ projection), or None.
    config : what made the features, by group as `PatchCoreConfig.to_dict()` has it; empty for a bank of foreign
        features. Settings without groups, as earlier versions had them, are put into theirs.
    reduction_mean, reduction_matrix : [C] and [C, D] float32 of "pca" and "whiten": features are (x - mean) @ matrix of
        the fused rows x, before rounding and lengths of 1. Or None, both.
    threshold : image score above which an image is anomalous, or None.
    support : [M] float32, how far each row is from the nearest training row of another image, or None; with the setting
        `price` it makes rows count as farther away (docs/price.md).
    normal_scores : [n] float64, scores of training images by banks without them (the threshold's source), or None.
    calibrated : images of a calibration that these scores and the maps below are of; 0 where they are held-out ones.
    pixel_threshold : value of an anomaly map above which a pixel is anomalous, or None.
    normal_pixels : [n, Q] float32, upper quantiles of maps of such images (`model.pixels.quantiles_of`), or None.
    images : names of the training images that `positions` counts, relative to their folder; empty when unknown.
    grid : (h, w) of patches per image, or None when it differs between images; at most SIDE each and CELLS in all.
    patches : number of training patches the bank was chosen from, 0 when unknown.
    weights : fingerprint of the backbone's weights, "" when unknown.
    radius : distance within which all rows that the bank was chosen from lie of it, in the space of the selection; None
        when unknown. `model.living` keeps it.
    size : what the budget came to that it was made by; None without one.
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
    radius: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    searcher: SearchIndex | None = None
    reduction_mean: torch.Tensor | None = None  # [C]
    reduction_matrix: torch.Tensor | None = None  # [C, D]
    support: torch.Tensor | None = None  # [M]
    size: BankSize | None = None
    pixel_threshold: float | None = None
    normal_pixels: torch.Tensor | None = None  # [n, Q]
    calibrated: int = 0

    @undisturbed
    def __post_init__(self) -> None:
        """Check that the parts belong together: ValueError or TypeError says which does not."""
        for name, kind in (("config", dict), ("images", list), ("patches", int), ("weights", str), ("versions", dict),
                           ("calibrated", int)):  # fmt: skip
            if not isinstance(getattr(self, name), kind) or isinstance(getattr(self, name), bool):
                raise TypeError(f"MemoryBank: {name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        object.__setattr__(self, "config", grouped(self.config))
        SearchSettings(price=recorded(self.config, "price", 0.0))  # which is to be multiplied with
        if not all(isinstance(x, str) for x in [*self.images, *self.versions.values()]):
            raise TypeError("MemoryBank: images must be names, and versions texts")
        if not 0 <= self.patches < 1 << 63:
            raise ValueError(f"MemoryBank: patches must lie in [0, 2^63), got {self.patches}")
        self._check_tensors()
        self._check_reduction()
        self._check_places()
        for name in ("threshold", "pixel_threshold", "radius"):
            value = getattr(self, name)
            if value is not None and not is_finite(value):
                raise ValueError(f"MemoryBank: {name} must be a finite number or None, got {value!r}")
        if self.radius is not None and self.radius < 0:
            raise ValueError(f"MemoryBank: radius must not be negative, got {self.radius!r}")

    def _check_tensors(self) -> None:
        f, i = self.features, self.indices
        precision = recorded(self.config, "precision", "float32")
        if f.ndim != 2 or 0 in f.shape or not isinstance(precision, str) or f.dtype != PRECISIONS.get(precision):
            raise ValueError(f"MemoryBank: features must be [M, D] {precision}, got {tuple(f.shape)} {f.dtype}")
        if not all(torch.isfinite(x) for x in f.aminmax()):  # NaN is either's; torch.isfinite(f) copies f
            bad = int((~torch.isfinite(f).all(dim=1)).sum())
            raise ValueError(f"MemoryBank: {bad} of {len(f)} feature rows are not finite")
        if i.shape != (len(f),) or i.dtype != torch.int64:
            raise ValueError(f"MemoryBank: indices must be [{len(f)}] int64, got {tuple(i.shape)} {i.dtype}")
        if int(i.min()) < 0 or (self.patches and int(i.max()) >= self.patches):
            raise ValueError(
                f"MemoryBank: indices must lie in [0, {self.patches}), got {int(i.min())} to {int(i.max())}"
            )
        s = self.support
        if s is not None:
            if s.shape != (len(f),) or s.dtype != torch.float32:
                raise ValueError(f"MemoryBank: support must be [{len(f)}] float32, got {tuple(s.shape)} {s.dtype}")
            if not bool((torch.isfinite(s) & (s >= 0)).all()):
                raise ValueError("MemoryBank: support must be finite and not negative")
        check_quantiles("MemoryBank", self.normal_pixels)
        for name, rows, dtype in (("projection", f.shape[1], torch.float32), ("normal_scores", None, torch.float64)):
            t = getattr(self, name)
            if t is None:
                continue
            fits = t.ndim == 1 if rows is None else t.ndim == 2 and len(t) == rows
            if not fits or 0 in t.shape or t.dtype != dtype or not bool(torch.isfinite(t).all()):
                shape = "[n]" if rows is None else f"[{rows}, d]"
                raise ValueError(f"MemoryBank: {name} must be finite {shape} {dtype}, got {tuple(t.shape)} {t.dtype}")

    def _check_reduction(self) -> None:
        mean, matrix, wide = self.reduction_mean, self.reduction_matrix, self.features.shape[1]
        if (mean is None) != (matrix is None):
            raise ValueError("MemoryBank: reduction_mean and reduction_matrix go together")
        if mean is None or matrix is None:
            return
        shapes = mean.ndim == 1 and 0 not in mean.shape and tuple(matrix.shape) == (len(mean), wide)
        if not shapes or not all(t.dtype == torch.float32 and bool(torch.isfinite(t).all()) for t in (mean, matrix)):
            raise ValueError(
                f"MemoryBank: reduction_mean and reduction_matrix must be finite [C] and [C, {wide}] float32, got "
                f"{tuple(mean.shape)} {mean.dtype} and {tuple(matrix.shape)} {matrix.dtype}"
            )

    def _check_places(self) -> None:
        """What is drawn has the size that these numbers say: none may be beyond the images and grids there were."""
        grid, cells, images = self.grid, 0, len(self.images) or IMAGES
        if grid is not None:
            if not isinstance(grid, tuple) or [type(n) for n in grid] != [int, int]:
                raise ValueError(f"MemoryBank: grid must be (rows, columns), got {grid!r}")
            cells = grid[0] * grid[1]
            if not all(1 <= n <= SIDE for n in grid) or cells > CELLS:
                raise ValueError(
                    f"MemoryBank: grid must be 1 to {SIDE} on a side and at most {CELLS} in all, got {grid}"
                )
            least = cells * max(len(self.images), 1)
            if self.patches and (self.patches < least or self.patches % cells):
                raise ValueError(
                    f"MemoryBank: {self.patches} patches are not those of {len(self.images) or 'some'} images with "
                    f"{grid[0]} x {grid[1]} each"
                )
            if self.patches and not self.images:
                images = min(IMAGES, self.patches // cells)
        for name in ("normal_scores", "normal_pixels"):
            held = getattr(self, name)
            if held is not None and len(held) > (asked := self.calibrated or images):
                raise ValueError(f"MemoryBank: {len(held)} {name} of {asked} images")
        p = self.positions
        if p is None:
            return
        if p.shape != (len(self.features), 3) or p.dtype != torch.int32:
            raise ValueError(
                f"MemoryBank: positions must be [{len(self.features)}, 3] int32, got {tuple(p.shape)} {p.dtype}"
            )
        most = (images, *(grid or (SIDE, SIDE)))
        if int(p.min()) < 0 or any(int(top) >= end for top, end in zip(p.amax(dim=0), most, strict=True)):
            raise ValueError(
                f"MemoryBank: positions must lie in [0, {most[0]}), [0, {most[1]}) and [0, {most[2]}), got "
                f"{p.amin(dim=0).tolist()} to {p.amax(dim=0).tolist()}"
            )

    def __len__(self) -> int:
        """M, the number of rows."""
        return len(self.features)

    @property
    def width(self) -> int:
        """D, the numbers of a row."""
        return self.features.shape[1]

    @property
    def parts(self) -> tuple[MemoryBank, ...]:
        """Itself; a `LayeredBank` has several."""
        return (self,)

    @cached_property
    def searched(self) -> torch.Tensor:
        """The rows as queries meet them: `features`, or [M, D + 1] with the price of each as its last number."""
        return with_price(self.features, self.support, recorded(self.config, "price", 0.0))

    @cached_property
    def exact(self) -> ExactSearch:
        """Our own search of the rows as queries meet them."""
        return ExactSearch(self.searched)

    @cached_property
    def highest(self) -> HighestSearch:
        """The same for image scores that want no map."""
        return HighestSearch(self.exact.prepared)

    @undisturbed
    def search(self, query: torch.Tensor, k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances [Q, k] float32, ascending, and bank rows [Q, k] int64 of query [Q, D]'s neighbours: Euclidean ones,
        with the price of the rows where they have one. An approximate index may miss some, see `search.SearchIndex`."""
        if query.ndim != 2 or query.shape[1] != self.features.shape[1]:
            raise ValueError(
                f"MemoryBank.search: query must be [Q, {self.features.shape[1]}], got shape {tuple(query.shape)}"
            )
        return (self.searcher or self.exact).search(widened(query, self.searched), k)

    def with_index(self, kind: str, seed: int = 0) -> MemoryBank:
        """The same bank with another search, made anew; `kind` and `seed` as `search.build_index` takes them."""
        return replace(self, searcher=None if kind == "exact" else build_index(kind, self.searched, seed))

    @undisturbed
    def to(self, device: str | torch.device) -> MemoryBank:
        """The same bank with its features on a device; what is only looked up stays where it is."""
        features, index = self.features.to(device), self.searcher
        if features is self.features:
            return self
        moved = replace(self, features=features, searcher=None)
        if index is None:
            return moved
        return replace(moved, searcher=load_index(index.kind, moved.searched, index.to_tensors()))

    @undisturbed
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all. OSError is the file system's (a full disk, no
        folder)."""
        tensors, about_index = self.stored()
        write_bank(path, tensors, self.facts(), about_index)

    def stored(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """The tensors that a file keeps, and what it says of the index."""
        tensors = {"features": self.features, "indices": self.indices}
        tensors |= {name: t for name in _OPTIONAL if (t := getattr(self, name)) is not None}
        about_index, more = stored(self.searcher)
        return tensors | more, about_index

    def facts(self) -> dict[str, Any]:
        """What a file says in JSON."""
        facts = {name: getattr(self, name) for name in _FACTS} | {"versions": self.versions or installed_versions()}
        return facts if self.size is None else facts | {"size": self.size.to_dict()}

    @classmethod
    @undisturbed
    def load(cls, path: str | os.PathLike[str], index: str | None = None) -> MemoryBank:
        """Read what `save` wrote, into memory of its own; with `index` that search is made anew, whatever the file has.

        Files of format 1, which have no digest, are read as well; their faiss index is made anew.

        Raises
        ------
        BankError : missing, truncated, foreign, changed or inconsistent file, or one of a newer format; one line that
            names the path.
        """
        path = Path(path)
        with reading(path) as (metadata, tensors, version):
            if LAYERS in metadata:
                raise BankError(f"{path}: has a bank for each layer, here one bank of all layers is wanted")
            return assembled(path, metadata, tensors, version, index)


def write_bank(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], more: Mapping[str, str]
) -> None:
    """One file of tensors, facts and more metadata, with their digest; whole or not at all."""
    write_tensors(path, tensors, {**more, "format": FORMAT, "format_version": str(FORMAT_VERSION)}, facts)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    facts: Mapping[str, Any],
) -> None:
    """The same of any format, which `metadata` names with its version."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {**metadata, "facts": json.dumps(facts, allow_nan=False)}
    content = safetensors.torch.save(tensors, metadata | {"digest": digest(tensors, metadata)})
    header, start = ordered_header(content)
    with atomic_write(path) as f:
        f.write(header)
        f.write(memoryview(content)[start:])


@contextmanager
def reading(path: Path) -> Iterator[tuple[dict[str, str], dict[str, torch.Tensor], int]]:
    """Metadata, tensors and format version of a bank file; what goes wrong inside the block is a BankError too."""
    with told(path):
        yield read_file(path, _check_format, bank_span)


def assembled(
    path: Path, metadata: dict[str, str], tensors: dict[str, torch.Tensor], version: int, index: str | None
) -> MemoryBank:
    """The bank of a file's parts; BankError where they do not belong together."""
    try:
        facts = read_json(metadata["facts"])
        facts = {"radius": None, "pixel_threshold": None, "calibrated": 0} | facts  # not in files of earlier versions
        size = size_of(facts)
        facts = {name: facts[name] for name in (*_FACTS, "versions")}
        facts["grid"] = tuple(facts["grid"]) if isinstance(facts["grid"], list) else facts["grid"]
        optional: dict[str, Any] = {n: tensors.get(n) for n in _OPTIONAL}
        bank = MemoryBank(tensors["features"], tensors["indices"], **optional, **facts, size=size)
        if index is None:
            return replace(bank, searcher=_stored_index(bank, metadata, tensors, version))
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise bank_error(path, f"inconsistent memory bank ({what})") from error
    return bank.with_index(index)


_OPTIONAL = (
    "positions", "projection", "support", "normal_scores", "normal_pixels", "reduction_mean", "reduction_matrix"
)  # fmt: skip
_FACTS = ("config", "threshold", "pixel_threshold", "calibrated", "images", "grid", "patches", "weights", "radius")


def _stored_index(
    bank: MemoryBank, metadata: dict[str, str], tensors: dict[str, torch.Tensor], version: int
) -> SearchIndex | None:
    """The file's index; None where it has none, as files before there were indexes."""
    entry = read_json(metadata.get("index", '{"kind": "exact"}'))
    if not isinstance(entry, dict) or not isinstance(kind := entry.get("kind"), str):
        raise ValueError(f"index must be described by its kind, got {entry!r}")
    if kind == "exact":
        return None
    if version == 1:  # faiss's own bytes: faiss trusts what it reads, so they are not given to it
        return build_index(kind, bank.searched, recorded(bank.config, "seed", 0))
    return load_index(kind, bank.searched, tensors)


def _check_format(path: Path, metadata: dict[str, str]) -> int:
    """The version of the format, 1 to FORMAT_VERSION."""
    if (found := metadata.get("format")) == METHOD_FORMAT:
        raise bank_error(path, f"a model of the method {metadata.get('method', '')}, and a memory bank is wanted")
    if found != FORMAT:
        raise BankError(f"{path}: a safetensors file, but not a memory bank of patchcore_fast")
    return version_of(path, metadata, "bank", FORMAT_VERSION)
