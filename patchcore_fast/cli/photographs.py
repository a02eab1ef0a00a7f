"""Photographs as commands draw patches on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig


def covered_photograph(path: Path, config: PatchCoreConfig, longest: int | None = None) -> Any:
    """The part of a file that the patch grid covers, [3, H, W] float32: the crop, measured as after resizing.

    longest : pixels of the file's longer side, where it has more; None leaves it as it is.
    """
    from patchcore_fast.data import image_size, load_image, resized_size
    from patchcore_fast.report.images import drawn_size

    size, f = image_size(path), config.features
    image = load_image(path, None if longest is None else drawn_size(size, longest))
    resized = resized_size(size, f.resize, f.aspect)
    for axis, (whole, cut) in enumerate(zip(resized, f.input_size or resized, strict=True), start=1):
        side, begin = image.shape[axis], round((whole - cut) / 2)
        first, last = round(begin / whole * side), round((begin + cut) / whole * side)
        image = image.narrow(axis, first, max(last - first, 1))
    return image.numpy()
