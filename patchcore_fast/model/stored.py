"""Features that lie in a store: written image by image, resumed, and read as the rows of a fit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar

import torch

from patchcore_fast.config import FeatureSettings, PatchCoreConfig
from patchcore_fast.feature_store import FeatureStore, ImageBlock, StoreWriter
from patchcore_fast.features import FeatureExtractor
from patchcore_fast.inputs import PRECISIONS, as_tensor
from patchcore_fast.kernels.ranks import Ranks
from patchcore_fast.model.batches import Batch, Batches
from patchcore_fast.model.collect import Rows, Sizes
from patchcore_fast.model.fewshot import Augmentation
from patchcore_fast.model.passes import Unread
from patchcore_fast.model.room import check_disk
from patchcore_fast.progress import bar
from patchcore_fast.scratch import room_for

_T = TypeVar("_T")
# Settings that decide what the rows of a store are, by group; of "features" all.
SELECTION = ("seed", "shots", "augment", "augmentations")


def fixed_settings(config: PatchCoreConfig) -> dict[str, Any]:
    """The settings that a store has once and for all, by group, as JSON."""
    values = config.to_dict()
    # Rows of length 1 have it as a whole or layer by layer: for one bank, or for a bank for each layer.
    names = (*SELECTION, "banks") if config.features.metric == "cosine" else SELECTION
    if config.features.fusion != "graph":  # other stores say nothing of graphs, as those of earlier versions
        values["features"] = {name: v for name, v in values["features"].items() if not name.startswith("graph_")}
    return {"features": values["features"], "selection": {name: values["selection"][name] for name in names}}


class StoredRows(Rows):
    """The rows of images first to last of a store, read as they are needed; in the type of its settings' precision."""

    def __init__(self, store: FeatureStore, first: int = 0, last: int | None = None) -> None:
        """Nothing is read yet. Images are counted with their copies."""
        sizes = torch.tensor([0, *(h * w for h, w in store.grids)]).cumsum(0)
        last = len(store.grids) if last is None else last
        self._store, self._first, self._low = store, first, int(sizes[first])
        self.grids = store.grids[first:last]
        self.sizes = _sizes(store.config.features, set(self.grids))
        self._dtype = PRECISIONS[store.config.features.precision]
        self._whole: torch.Tensor | None = None

    @property
    def columns(self) -> int:
        """D."""
        return self._store.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self._dtype

    def read(self, low: int, high: int) -> torch.Tensor:
        """In memory of its own. DataError: the store was changed or cut short meanwhile."""
        return as_tensor(self._store.rows(self._low + low, self._low + high)).to(self._dtype)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """Raises as `read`."""
        return as_tensor(self._store.take((indices + self._low).numpy())).to(self._dtype)

    def embeddings(self) -> torch.Tensor | None:
        """None of a store of an earlier version, which has none."""
        if self._store.about.get("embedding") is None:
            return None
        return as_tensor(self._store.embeddings[self._first : self._first + len(self.grids)])

    @property
    def features(self) -> torch.Tensor:
        """All rows, for samplers that look at them themselves: a copy, in a file where memory is short."""
        if self._whole is None:
            self._whole = room_for((self.total, self.columns), self._dtype)
            step = max(1, (64 << 20) // (self.columns * self._dtype.itemsize))
            for low in range(0, self.total, step):
                high = min(low + step, self.total)
                self._whole[low:high] = self.read(low, high)
        return self._whole


def _sizes(f: FeatureSettings, grids: Collection[tuple[int, int]]) -> Sizes:
    """See `Rows.sizes`: where images have one size and their grids cover no more than that; a store names no others."""
    size = f.input_size
    if size is None:
        return {}
    return {grid: (size, size) for grid in grids if f.tile is None or not (size[0] % grid[0] or size[1] % grid[1])}


def in_step(ranks: Ranks | None, work: Callable[[], _T]) -> _T:
    """What `work` returns; with ranks, where it fails on one of them, an error on all."""
    return work() if ranks is None else ranks.agree(work)


def describe(
    config: PatchCoreConfig, batches: Batches, extractor: FeatureExtractor, augmentation: Augmentation, kind: str | None
) -> dict[str, Any]:
    """What a store of these images says that it is of.

    kind : "float16" or "float32"; the settings' precision when None, for bfloat16 float32.

    Raises
    ------
    TypeError : images that are no files.  ValueError : another kind, or copies by a transform.
    """
    if batches.records is None or batches.cut is None:
        raise TypeError("PatchCore.extract: images must be a folder, an ImageSet or paths: a store has their names")
    if augmentation.name == "custom":
        raise ValueError("PatchCore.extract: copies that a transform makes cannot be kept in a store")
    precision = config.features.precision
    kind = kind or ("float16" if precision == "float16" else "float32")
    if kind not in ("float16", "float32"):
        raise ValueError(f"PatchCore.extract: dtype must be float16 or float32, got {kind!r}")
    names = hashlib.blake2b(digest_size=16)
    for record in batches.records:
        size = os.path.getsize(record.path) if os.path.exists(record.path) else -1
        names.update(f"{batches.name(record.path)}\0{size}\n".encode("utf-8", "surrogateescape"))
    about = fixed_settings(config)
    if config.excluded:  # a store of all images says nothing of it, as those of earlier versions
        about["selection"]["excluded"] = config.excluded
    return about | {
        "weights": extractor.backbone.fingerprint(), "widths": list(extractor.widths), "type": kind,
        "embedding": extractor.embedding_columns,
        "count": len(batches.records),
        "names and sizes of images": names.hexdigest(),
    }  # fmt: skip


def extract_into(
    folder: str | os.PathLike[str],
    about: Mapping[str, Any],
    batches: Batches,
    extractor: FeatureExtractor,
    augmentation: Augmentation,
    device: torch.device,
    ranks: Ranks | None = None,
    progress: bool | None = None,
) -> FeatureStore:
    """Write the features of the images that are not in the store yet, each rank its share; the store, open.

    Raises
    ------
    DataError : as of `StoreWriter` and `FeatureStore`; an image that cannot be read, where `batches` raises it.
    """
    rank, size = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    with ExitStack() as opened:  # also where another rank fails meanwhile

        def opening(first: bool) -> StoreWriter:
            return opened.enter_context(closing(StoreWriter(folder, about, first)))

        one = in_step(ranks, lambda: opening(True) if rank == 0 else None)
        writer = in_step(ranks, lambda: one or opening(False))
        first, last = batches.share(rank, size)
        in_step(ranks, lambda: _write(writer, batches, first, last, extractor, augmentation, device, progress))
        in_step(ranks, lambda: writer.finish() if rank == 0 else None)
    return FeatureStore(folder)


def _write(
    writer: StoreWriter,
    batches: Batches,
    first: int,
    last: int,
    extractor: FeatureExtractor,
    augmentation: Augmentation,
    device: torch.device,
    progress: bool | None,
) -> None:
    missing = list(writer.missing(first, last))
    with bar(last - first, "features", progress) as shown:
        shown.update(last - first - sum(high - low for low, high in missing))
        for low, high in missing:
            at = low
            for batch in batches.part(low, high):
                block, rows, embeddings = _block(batch, batches, at, extractor, augmentation, device)
                if at == low and rows is not None:
                    left = sum(b - a for a, b in missing) * augmentation.per_image
                    check_disk(writer.folder, left * len(rows) // len(block.grids), rows.shape[1], writer.about["type"])
                if rows is None or embeddings is None:
                    writer.add(block, torch.empty(0, 0).numpy())
                else:
                    writer.add(block, rows.numpy(), embeddings.numpy())
                at = block.last
                shown.update(block.last - block.first)
        writer.flush()


def _block(
    batch: Batch,
    batches: Batches,
    first: int,
    extractor: FeatureExtractor,
    augmentation: Augmentation,
    device: torch.device,
) -> tuple[ImageBlock, torch.Tensor | None, torch.Tensor | None]:
    """A batch as it is stored: what it is of, rows and embeddings; None for these where none of its images can be read.

    Copies have embeddings of their own, as they have rows.
    """
    block = ImageBlock(first, first + len(batch.labels))
    for record, error in zip(batch.records, batch.errors, strict=True):
        assert record is not None  # `describe` has refused others
        name = batches.name(record.path)
        if error is None:
            block.images.append(name)
        else:
            block.unread.append((name, error.replace(str(record.path), name)))
    good = batch.only([i for i, error in enumerate(batch.errors) if error is None])
    parts, embedded = [], []
    if len(good.images):
        for images in augmentation.blocks(good.images.to(device), first):
            (features, grid), embeddings = extractor.with_embeddings(images)
            parts.append(features.cpu())
            embedded.append(embeddings.cpu())
            block.grids += [grid] * len(images)
    if not parts:
        return block, None, None
    rows = torch.cat(parts)
    return block, rows.float() if rows.dtype == torch.bfloat16 else rows, torch.cat(embedded)


def unread_of(store: FeatureStore) -> Unread:
    """(file, why) of images that are not in a store."""
    return [(Path(name), why) for name, why in store.unread]


def share_of(images: Sequence[tuple[int, int]], per_image: int, rank: int, size: int) -> tuple[int, int]:
    """Images first to last of a store for a rank, each with its copies."""
    whole = len(images) // per_image
    return whole * rank // size * per_image, whole * (rank + 1) // size * per_image
