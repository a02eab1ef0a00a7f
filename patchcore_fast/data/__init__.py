"""Photographs on disk: which images a folder holds, and how any of them becomes a [3, H, W] tensor."""

from __future__ import annotations

from patchcore_fast.data.dataset import ImageDataset, make_loader
from patchcore_fast.data.folders import IMAGE_SUFFIXES, ImageRecord, ImageSet, scan, scan_images
from patchcore_fast.data.images import image_size, load_image, load_mask

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageDataset",
    "ImageRecord",
    "ImageSet",
    "image_size",
    "load_image",
    "load_mask",
    "make_loader",
    "scan",
    "scan_images",
]
