"""Records as a torch data set and loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from patchcore_fast.data.folders import ImageRecord
from patchcore_fast.data.images import Size, image_size, load_image, load_mask
from patchcore_fast.errors import DataError


class ImageDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Records as tensors.

    Items are dicts: image [3, H, W] float32 in [0, 1]; mask [H, W] bool (zeros without a file); has_mask,
    whether the truth is known pixel by pixel (for normal images it always is); label; index; size, the file's
    (height, width).

    Parameters
    ----------
    records : what to load.
    size, crop : see `load_image`.
    """

    def __init__(self, records: Sequence[ImageRecord], size: Size | None = None, crop: Size | None = None) -> None:
        """Keep the list; files are read item by item."""
        self.records, self.size, self.crop = list(records), size, crop

    def __len__(self) -> int:
        """Count of records."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load record `index`; DataError names a file that cannot be used."""
        record = self.records[index]
        image = load_image(record.path, self.size, self.crop)
        if record.mask is None:
            mask = torch.zeros(image.shape[1:], dtype=torch.bool)
        else:
            mask = load_mask(record.mask, self.size, self.crop)
            if mask.shape != image.shape[1:]:
                raise DataError(f"{record.mask}: {tuple(mask.shape)} is not the size of its image {record.path}")
        return {
            "image": image,
            "mask": mask,
            "has_mask": record.mask is not None or record.label == 0,
            "label": record.label,
            "index": index,
            "size": torch.tensor(image_size(record.path)),
        }


def make_loader(
    records: Sequence[ImageRecord],
    size: Size | None = None,
    crop: Size | None = None,
    batch_size: int = 16,
    workers: int = 0,
) -> torch.utils.data.DataLoader[dict[str, Any]]:
    """Loader over `ImageDataset` in the records' order; `workers` processes decode ahead (0: this
    process)."""
    # A generator of its own: a DataLoader without one draws its workers' seed from torch's global state.
    return torch.utils.data.DataLoader(
        ImageDataset(records, size, crop), batch_size=batch_size, num_workers=workers, generator=torch.Generator()
    )
