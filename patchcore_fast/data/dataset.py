"""Records as a torch data set and loader."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from patchcore_fast.data.folders import ImageRecord
from patchcore_fast.data.images import Size, load_mask, load_sized
from patchcore_fast.errors import DataError


class ImageDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Records as tensors.

    Items are dicts: image [3, H, W] float32 in [0, 1]; mask [H, W] bool (zeros without a file); has_mask,
    whether the truth is known pixel by pixel (for normal images it always is); label; index; size, the file's
    (height, width); error and mask_error, why a file cannot be used ("" where it can).

    Parameters
    ----------
    records : what to load.
    size, crop : see `load_image`.
    on_error : "raise" ends at the first file that cannot be used, with a DataError that names it. "return" gives an
        item for it all the same, so that the others of its batch are not lost: of an unreadable image a black one with
        `error`, size (0, 0) and has_mask False; of an unreadable mask the image with `mask_error` and has_mask False.

    Raises
    ------
    ValueError : another on_error, or "return" without size and crop: the shape of a black image must be known.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        size: Size | None = None,
        crop: Size | None = None,
        on_error: str = "raise",
    ) -> None:
        """Keep the list; files are read item by item."""
        if on_error not in ("raise", "return"):
            raise ValueError(f'ImageDataset: on_error must be "raise" or "return", got {on_error!r}')
        if on_error == "return" and size is None and crop is None:
            raise ValueError('ImageDataset: on_error="return" needs size or crop, the shape of an image is not known')
        self.records, self.size, self.crop, self.on_error = list(records), size, crop, on_error

    def __len__(self) -> int:
        """Count of records."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load record `index`; with on_error="raise", DataError names a file that cannot be used."""
        record = self.records[index]
        item: dict[str, Any] = {"label": record.label, "index": index, "error": "", "mask_error": ""}
        try:
            image, size = load_sized(record.path, self.size, self.crop)
        except DataError as error:
            if self.on_error == "raise":
                raise
            sides = self.size if self.crop is None else self.crop
            height, width = (sides, sides) if isinstance(sides, int) else sides or (1, 1)
            image, size = torch.zeros(3, height, width), (0, 0)
            item["error"] = str(error)
        mask = None
        if not item["error"]:
            try:
                mask = load_truth(record, image.shape[1:], self.size, self.crop)
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


def load_truth(
    record: ImageRecord, shape: Sequence[int], size: Size | None = None, crop: Size | None = None
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
    mask = load_mask(record.mask, size, crop)
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
) -> torch.utils.data.DataLoader[dict[str, Any]]:
    """Loader over `ImageDataset` in the records' order; `workers` processes decode ahead (0: this
    process); `on_error` as there."""
    # A generator of its own: a DataLoader without one draws its workers' seed from torch's global state.
    dataset = ImageDataset(records, size, crop, on_error)
    return torch.utils.data.DataLoader(dataset, batch_size=batch_size, num_workers=workers, generator=torch.Generator())
