"""Photographs on disk: which images a folder holds, and how any of them becomes a [3, H, W] tensor."""

from __future__ import annotations

from patchcore_fast.data.dataset import ImageDataset, load_truth, make_loader
from patchcore_fast.data.exclude import without
from patchcore_fast.data.folders import IMAGE_SUFFIXES, ImageRecord, ImageSet, scan_images
from patchcore_fast.data.images import image_size, load_image, load_mask, resized_size
from patchcore_fast.data.sets import scan
from patchcore_fast.data.summary import Finding, ScanSummary

__all__ = [
    "IMAGE_SUFFIXES",
    "Finding",
    "ImageDataset",
    "ImageRecord",
    "ImageSet",
    "ScanSummary",
    "image_size",
    "load_image",
    "load_mask",
    "load_truth",
    "make_loader",
    "resized_size",
    "scan",
    "scan_images",
    "without",
]
