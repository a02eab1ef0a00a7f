"""Whatever the caller has (a folder, paths, tensors, a loader) as one stream of batches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.ahead import Ahead
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.data import ImageDataset, ImageRecord, ImageSet, make_loader, scan, scan_images
from patchcore_fast.data.meta import list_of
from patchcore_fast.errors import DataError
from patchcore_fast.model.fewshot import draw_shots
from patchcore_fast.progress import bar

_ERRORS = ("error", "mask_error")  # of ImageDataset's items
_TENSORS = ("images", "masks")  # of a Batch; its other fields are lists


@dataclass(frozen=True)
class Batch:
    """images [B, 3, H, W] in [0, 1] and, item by item, what is known of them.

    records and sizes ((height, width) of the file) hold None for images that came as tensors; labels -1 is
    unknown; masks [B, H, W] bool is None when nothing came with the images. errors and mask_errors say why the file of
    an image or of its mask could not be used, None where it could: the image is then black, and its score says nothing.
    """

    images: torch.Tensor
    records: list[ImageRecord | None]
    sizes: list[tuple[int, int] | None]
    labels: list[int]
    masks: torch.Tensor | None
    has_mask: list[bool]
    errors: list[str | None]
    mask_errors: list[str | None]

    def only(self, kept: Sequence[int]) -> Batch:
        """The images of these positions, and what belongs to them."""
        if len(kept) == len(self.labels):
            return self
        parts: dict[str, Any] = {f.name: [getattr(self, f.name)[i] for i in kept]
                                 for f in fields(self) if f.name not in _TENSORS}  # fmt: skip
        parts["masks"] = None if self.masks is None else self.masks[list(kept)]
        return Batch(images=self.images[list(kept)], **parts)


@dataclass(frozen=True)
class Batches:
    """A stream of batches.

    count : the number of images, None when it cannot be known beforehand.  records : theirs, in order.
    indexed : the records that the items of a loader count by "index", where they are not `records`.
    normal : leave out images that are labelled anomalous, and warn of it.
    cut : (first, last) -> the source of images first to last; None where they come in one stream only.
    step : images in a batch of theirs.
    """

    source: Iterable[Any]
    count: int | None
    records: list[ImageRecord] | None
    root: Path | None = None
    indexed: list[ImageRecord] | None = None
    normal: bool = False
    cut: Callable[[int, int], Iterable[Any]] | None = None
    step: int = 1

    def part(self, first: int, last: int) -> Batches:
        """Images first to last. TypeError: they come in one stream only."""
        if self.cut is None:
            raise TypeError(
                "PatchCore.fit: only a folder, an ImageSet, paths or a tensor can be cut into parts, for ranks or for "
                "a store: give one of these in place of a loader"
            )
        records = None if self.records is None else self.records[first:last]
        return replace(self, source=self.cut(first, last), count=last - first, records=records)

    def share(self, rank: int, size: int) -> tuple[int, int]:
        """Images first to last of a rank: whole batches, so that each image is computed among the same others."""
        self.part(0, 0)
        whole = self.count or 0
        batches = -(-whole // self.step)
        return tuple(min(whole, self.step * (batches * r // size)) for r in (rank, rank + 1))  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Batch]:
        """Checked batches; DataError when the source turns out empty, or has no normal image where one is wanted."""
        seen, total, left_out = False, 0, list[str]()
        try:
            for item in self.source:
                batch = _batch(item, self.indexed or self.records)
                seen = True
                if self.normal:
                    left_out += [
                        f"image {total + i}" if record is None else self.name(record.path)
                        for i, (label, record) in enumerate(zip(batch.labels, batch.records, strict=True))
                        if label > 0
                    ]
                    total += len(batch.labels)
                    batch = batch.only([i for i, label in enumerate(batch.labels) if label <= 0])
                if len(batch.images):
                    yield batch
        except DataError as error:
            # A loader's worker process sends its whole traceback as the message; the last part is what went wrong.
            raise DataError(str(error).rsplit("DataError: ", 1)[-1].strip()) from error
        if not seen:
            raise DataError("PatchCore: the source gave no images")
        _tell_left_out(left_out, total)

    def shown(self, what: str, progress: bool | None) -> Iterator[Batch]:
        """The same under a progress bar; see `progress.bar`."""
        with bar(self.count, what, progress) as counting:
            for batch in self:
                yield batch
                counting.update(len(batch.labels))

    def name(self, path: Path) -> str:
        """How reports call a file: relative to the folder that was given, so that they tell nothing of the machine."""
        if self.root is not None and path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        return path.name


def at_once(config: PatchCoreConfig) -> int:
    """Images in a batch: one where each becomes a batch of tiles by itself, or may have a shape of its own.

    Batches of several shapes would end where the shape changes, so where they are cut would depend on the first image.
    """
    f = config.features
    return config.running.batch_size if f.tile is None and f.input_size is not None else 1


def batches_of(
    data: Any, config: PatchCoreConfig, part: str, shots: int | None = None, on_error: str = "raise"
) -> Batches:
    """Stream `data`; part is "train", "test", or "any".

    Of an ImageSet "any" is the test part; a folder it takes as it is, where the others scan it for its parts. With
    `shots` only so many images, drawn by the config's seed (`fewshot.draw_shots`). `on_error` is ImageDataset's, for
    files; a loader that was given keeps its own.
    """
    root = None
    if isinstance(data, str | os.PathLike):
        whole = os.path.isdir(data) or list_of(data) is not None
        data = scan(data) if whole and part != "any" else scan_images(data)
    if isinstance(data, ImageSet):
        root = data.root
        records = data.train if part == "train" else data.test
        if not records:
            wanted = "training images (train/good)" if part == "train" else "test images (test/<defect>)"
            raise DataError(f"{data.root}: no {wanted}")
    elif isinstance(data, list | tuple) and (not data or isinstance(data[0], str | os.PathLike | ImageRecord)):
        records = scan_images(data)
    elif isinstance(data, torch.Tensor):
        if data.ndim != 4:
            raise ValueError(f"PatchCore: an image tensor must be [N, 3, H, W], got shape {tuple(data.shape)}")
        if shots is not None:
            data = data[draw_shots(len(data), shots, config.selection.seed).to(data.device)]
        images, step = data, at_once(config)

        def split(first: int, last: int) -> Iterable[torch.Tensor]:
            return images[first:last].split(step) if last > first else []

        return Batches(split(0, len(images)), len(images), None, cut=split, step=step)
    elif isinstance(data, Iterable):
        if shots is not None:
            raise TypeError(
                "PatchCore.fit: shots are drawn from a folder, an ImageSet, paths or a tensor, not from "
                f"{type(data).__name__}: give a loader of the images that are wanted"
            )
        dataset = getattr(data, "dataset", None)
        known = dataset.records if isinstance(dataset, ImageDataset) else None
        if known is None:
            return Batches(data, None, None, normal=part == "train")
        used = [r for r in known if r.label <= 0] if part == "train" else known
        return Batches(data, len(used), used, indexed=known, normal=part == "train")
    else:
        raise TypeError(
            "PatchCore: images must be a folder, an ImageSet, paths, a tensor or an iterable of tensors, "
            f"got {type(data).__name__}"
        )
    if part == "train":
        names = Batches((), 0, None, root).name
        _tell_left_out([names(r.path) for r in records if r.label > 0], len(records))
        records = [r for r in records if r.label <= 0]
    if shots is not None:
        records = [records[i] for i in draw_shots(len(records), shots, config.selection.seed).tolist()]
    f, step, workers = config.features, at_once(config), config.running.workers

    def load(first: int, last: int) -> Iterable[Any]:
        loader = make_loader(records[first:last], f.resize, f.crop, step, workers, on_error, f.aspect)
        return loader if workers else Ahead(loader)

    return Batches(load(0, len(records)), len(records), records, root, cut=load, step=step)


def _tell_left_out(names: list[str], total: int) -> None:
    """Warn of anomalous images that were left out; DataError when that is all of them."""
    if not names:
        return
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    told = f"{len(names):,} of {total:,} images are labelled anomalous ({', '.join(names[:3])}{more})"
    if len(names) == total:
        raise DataError(f"PatchCore.fit: {told}; none is left to learn what is normal from")
    warnings.warn(f"PatchCore.fit: {told} and left out of training", UserWarning, stacklevel=4)


def _batch(item: Any, records: list[ImageRecord] | None) -> Batch:
    extra = item if isinstance(item, dict) else {}
    images = item.get("image") if isinstance(item, dict) else item
    if isinstance(images, list | tuple) and images:
        images = images[0]  # (images, labels) of a TensorDataset and its like
    if not isinstance(images, torch.Tensor):
        raise TypeError(f'PatchCore: batches must be tensors or dicts with "image", got {type(item).__name__}')
    images = images[None] if images.ndim == 3 else images
    _check_images(images)
    n = len(images)
    found: list[ImageRecord | None] = [None] * n
    if records is not None and "index" in extra:
        found = [records[int(i)] for i in extra["index"]]
    sizes: list[tuple[int, int] | None] = [None] * n
    if "size" in extra:
        sizes = [(int(h), int(w)) if h else None for h, w in extra["size"]]
    masks = extra.get("mask")
    if masks is not None and masks.numel() != n * images.shape[2] * images.shape[3]:
        raise ValueError(f"PatchCore: masks of shape {tuple(masks.shape)} for images of shape {tuple(images.shape)}")
    labels = [int(v) for v in torch.as_tensor(extra["label"]).reshape(-1)] if "label" in extra else [-1] * n
    known = extra.get("has_mask", [masks is not None] * n)
    return Batch(
        images, found, sizes, labels, None if masks is None else masks.reshape(n, *images.shape[2:]).bool(),
        [bool(v) for v in known], *([text or None for text in extra.get(key, [""] * n)] for key in _ERRORS),
    )  # fmt: skip


def _check_images(images: torch.Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"PatchCore: images must be [B, 3, H, W], got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"PatchCore: images must be floating point in [0, 1], got {images.dtype}")
    low, high = images.aminmax()
    # NaN fails this comparison too. Normalised images, the usual mistake, would give plausible but poor
    # scores.
    if not (low >= -1e-3 and high <= 1.001):
        raise ValueError(
            f"PatchCore: images must lie in [0, 1], got {float(low):.3g} to {float(high):.3g}; do not normalise them"
        )
