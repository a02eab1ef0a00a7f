"""Settings of published methods by name. docs/presets.md says where they come from and where a result differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Settings by name, over the defaults.

    Attributes
    ----------
    settings : what differs from the defaults.  source : the publication and code that they are of.
    differs : what is not as there, one point each.
    """

    settings: Mapping[str, Any]
    source: str
    differs: tuple[str, ...] = ()


PRESETS: Mapping[str, Preset] = MappingProxyType({
    "patchcore": Preset(
        {}, "Roth et al., CVPR 2022, on EfficientNet-Lite0: the defaults",
        ("A small backbone whose weights install from a package index in place of WideResNet-50; 1 % of the patches; "
         "the image score is the largest patch score, without the paper's re-weighting.",
         "A patch is scored by the mean of three priced distances (docs/price.md), there by the nearest one."),
    ),
    "amazon": Preset(
        {"backbone": "wide_resnet50_2", "layers": ("layer2", "layer3"), "image_size": 256, "crop": 224,
         "fusion": "amazon", "dim": 1024, "sampler": "approximate", "ratio": 0.1, "distance": "squared",
         "neighbours": 1, "price": 0.0},
        "amazon-science/patchcore-inspection, its published WideResNet-50 baseline at 10 %",
        ("Weights are timm's, not torchvision's.",
         "Choices between rows are made on exact distances (docs/drop-ins.md)."),
    ),
    "anomalib": Preset(
        {"backbone": "wide_resnet50_2", "layers": ("layer2", "layer3"), "patch_size": 3, "image_size": 256,
         "ratio": 0.1, "image_score": "reweighted", "reweight_neighbours": 9, "upsample": "nearest",
         "border": "mirror", "neighbours": 1, "price": 0.0},
        "anomalib's Patchcore with its default settings (2.0 to 2.7)",
        ("anomalib selects after a sparse random projection, this preset after a dense one to 128 numbers.",
         "The threshold is that of docs/threshold.md, not the best F1 on labelled images.",
         "With a ViT at another size than it was trained at, position embeddings are resampled as in anomalydino."),
    ),
    "anomalydino": Preset(
        {"backbone": "vit_small_patch14_dinov2", "layers": (11,), "norm": True, "patch_size": 1, "image_size": 252,
         "metric": "cosine", "sampler": "identity", "image_score": "top:0.01", "upsample": "nearest",
         "border": "mirror", "neighbours": 1, "price": 0.0},
        "AnomalyDINO, Damm et al., WACV 2025, as anomalib's AnomalyDINO has it (2.7)",
        ("Position embeddings are resampled with anti-aliasing, as timm does it; anomalib turns that off. For it image "
         "scores of 16 hazelnuts at 252 pixels differ by 3 % (median; 7 % at most; a ViT-S/14 fine-tuned from "
         "DINOv2-small). At 518 pixels there is nothing to resample.",
         "Images are resized bilinearly, there bicubically.",
         "No foreground mask. The paper's is for objects, and anomalib leaves it out by default.",
         "No rotated copies in few-shot; --augment rotate adds turns by 90, 180 and 270 degrees.",
         "Images are made square; the paper keeps their aspect and has 448 or 672 pixels on the shorter side."),
    ),
    "superadd": Preset(
        {"backbone": "vit_huge_plus_patch16_dinov3", "layers": (7, 15, 23, 31), "norm": False, "patch_size": 1,
         "image_size": 448, "tile": 448, "overlap": 32, "banks": "layer", "ratio": 0.1, "image_score": "top:0.001",
         "border": "mirror", "neighbours": 1, "price": 0.0},
        "SuperADD, winner of VAND 4.0, arXiv 2605.14808, as anomalib's SuperADD has it (2.7)",
        ("Each layer's bank is chosen by exact greedy k-center, not at random by density; its size is a share of the "
         "patches, there 100,000 rows.",
         "Neighbouring tiles share 32 pixels, which anomalib calls an overlap of 16. Tiles of larger images follow "
         "each other by the same step and the last is shifted back; there all are spread evenly.",
         "The image score is the mean of the highest 0.1 % of the patches, there of the pixels.",
         "Layers are put on one scale by their scores on training images, there divided by the width of a row.",
         "The threshold is that of docs/threshold.md, there 1.421 times the 95th percentile of normal images.",
         "Images are made square with 448 pixels as in anomalib, which is one tile; the paper's images are larger, "
         "its tiles 640 pixels with an overlap of 128, its training images also darker and brighter."),
    ),
})  # fmt: skip
