"""Records as a torch data set and loader."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from patchcore_fast.data.folders import ImageRecord
from patchcore_fast.data.images import Size, image_size, load_mask, load_sized, resized_size
from patchcore_fast.errors import DataError
from patchcore_fast.stages import stage

BLACK = 32  # side of what stands for an image that cannot be read, where images keep their own sizes


class ImageDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Records as tensors.

    Items are dicts: image [3, H, W] float32 in [0, 1]; mask [H, W] bool (zeros without a file); has_mask,
    whether the truth is known pixel by pixel (for normal images it always is); label; index; size, the file's
    (height, width); error and mask_error, why a file cannot be used ("" where it can).

    Parameters
    ----------
    records : what to load.
    size, crop, aspect : see `load_image`.
    on_error : "raise" ends at the first file that cannot be used, with a DataError that names it. "return" gives an
        item for it all the same, so that the others of its batch are not lost: of an unreadable image a black one with
        `error`, size (0, 0) and has_mask False; of an unreadable mask the image with `mask_error` and has_mask False.

    Raises
    ------
    ValueError : another on_error.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        size: Size | None = None,
        crop: Size | None = None,
        on_error: str = "raise",
        aspect: str = "squash",
    ) -> None:
        """Keep the list; files are read item by item."""
        if on_error not in ("raise", "return"):
            raise ValueError(f'ImageDataset: on_error must be "raise" or "return", got {on_error!r}')
        resized_size((1, 1), size, aspect)
        self.records, self.size, self.crop, self.on_error = list(records), size, crop, on_error
        self.aspect = aspect

    def __len__(self) -> int:
        """Count of records."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load record `index`; with on_error="raise", DataError names a file that cannot be used."""
        record = self.records[index]
        item: dict[str, Any] = {"label": record.label, "index": index, "error": "", "mask_error": ""}
        try:
            with stage("decode"):
                image, size = load_sized(record.path, self.size, self.crop, self.aspect)
        except DataError as error:
            if self.on_error == "raise":
                raise
            image, size = torch.zeros(3, *self.shape(index)), (0, 0)
            item["error"] = str(error)
        mask = None
        if not item["error"]:
            try:
                mask = load_truth(record, image.shape[1:], self.size, self.crop, self.aspect)
            except DataError as error:
                if self.on_error == "raise":
                    raise
                item["mask_error"] = str(error)
        return item | {
            "image": image,
            "mask": torch.zeros(image.shape[1:], dtype=torch.bool) if mask is None else mask,
            "has_mask": mask is not None,
            "size": torch.tensor(size),
        }

    @property
    def one_shape(self) -> bool:
        """Whether all images come in one shape, whatever the files'."""
        return self.crop is not None or (self.size is not None and self.aspect == "squash")

    def shape(self, index: int) -> tuple[int, int]:
        """(height, width) of an item, from the header of its file alone; BLACK where that cannot be read either."""
        if self.one_shape:
            return resized_size((1, 1), self.size if self.crop is None else self.crop)
        try:
            return resized_size(image_size(self.records[index].path), self.size, self.aspect)
        except (DataError, ValueError):
            return BLACK, BLACK


class SameShapes(torch.utils.data.Sampler[list[int]]):
    """Batches of at most `batch_size` neighbours in the list of a data set whose images are of one shape."""

    def __init__(self, dataset: ImageDataset, batch_size: int) -> None:
        """Headers are read batch by batch."""
        self.dataset, self.batch_size = dataset, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of the items of each batch, all in order."""
        batch: list[int] = []
        last: tuple[int, int] | None = None
        for index in range(len(self.dataset)):
            shape = self.dataset.shape(index)
            if batch and (shape != last or len(batch) == self.batch_size):
                yield batch
                batch = []
            batch.append(index)
            last = shape
        if batch:
            yield batch


def load_truth(
    record: ImageRecord,
    shape: Sequence[int],
    size: Size | None = None,
    crop: Size | None = None,
    aspect: str = "squash",
) -> torch.Tensor | None:
    """Anomalous pixels [H, W] bool of a record's image, whose shape they must have; None where nobody knows them.

    Of a normal image no pixel is anomalous. An anomalous image without a mask, or with one that marks nothing, is
    not known pixel by pixel (the latter is warned of): else its defect would count as normal.

    Raises
    ------
    DataError : a mask that cannot be read, or is not of the size of its image.
    """
    if record.mask is None:
        return torch.zeros(tuple(shape), dtype=torch.bool) if record.label == 0 else None
    mask = load_mask(record.mask, size, crop, aspect)
    if mask.shape != tuple(shape):
        raise DataError(f"{record.mask}: {tuple(mask.shape)} is not the size of its image {record.path}")
    if record.label == 1 and not mask.any() and not load_mask(record.mask).any():
        warnings.warn(f"{record.mask}: marks nothing, but its image is anomalous; it is not used", stacklevel=2)
        return None
    return mask


def make_loader(
    records: Sequence[ImageRecord],
    size: Size | None = None,
    crop: Size | None = None,
    batch_size: int = 16,
    workers: int = 0,
    on_error: str = "raise",
    aspect: str = "squash",
) -> torch.utils.data.DataLoader[dict[str, Any]]:
    """Loader over `ImageDataset` in the records' order; `workers` processes decode ahead (0: this process); `on_error`
    and `aspect` as there. Where images keep their sizes, a batch ends when the next one has another."""
    dataset = ImageDataset(records, size, crop, on_error, aspect)
    how: dict[str, Any] = {"batch_size": batch_size}
    if not dataset.one_shape:
        how = {"batch_sampler": SameShapes(dataset, batch_size)}
    # A generator of its own: a DataLoader without one draws its workers' seed from torch's global state.
    return torch.utils.data.DataLoader(dataset, num_workers=workers, generator=torch.Generator(), **how)
