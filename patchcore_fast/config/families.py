"""What features are best made with, by the name of the backbone: one table that needs no timm (docs/backbones.md).

Layers of a transformer without stages are block numbers from 0: after half and after three quarters of its depth. Its
image side gives 32 x 32 patches. Tokens want no averaging over neighbours, and the final norm; stages have none. Vision
GNN is not timm's (`features.vig`), of a fixed size and without a final norm.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class FeatureDefaults(NamedTuple):
    """layers, image_size (pixels), patch_size and norm that a backbone gets where the user gives none."""

    layers: tuple[int, ...]
    image_size: int
    patch_size: int
    norm: bool


class Family(NamedTuple):
    """A row of the table.

    name, example : for people.  pattern : what the names begin with.  stages : layers count stages, not blocks.
    native : the image side is the one the name ends with, for the network's size is fixed when it is built.
    """

    name: str
    pattern: str
    example: str
    stages: bool
    native: bool


GIVEN = "module:"  # what the name of a user's own network begins with; what follows is no name of timm's
PYRAMID = FeatureDefaults((2, 3), 256, 3, False)  # CNNs: strides 8 and 16 of five stages
GRID = 32  # patches along a side
FAMILIES = (
    Family("Swin, Hiera, MViT, Twins", "swin|hiera|sam2|mvit|twins", "swin_tiny_patch4_window7_224", True, True),
    Family("ViT of a fixed size: BEiT, CaiT, XCiT, SAM", "beit|cait|convit|xcit|samvit|vit_s?relpos|test_vit_relpos",
           "beit_base_patch16_224", False, True),
    Family("ViT: DINOv2, DINOv3, CLIP, DeiT, EVA", "(test_)?vit|deit|eva|flexivit|naflexvit",
           "vit_small_patch14_dinov2", False, False),
    Family("Vision GNN", "vig_", "vig_s", False, True),
    Family("Pyramid Vision GNN", "pvig_", "pvig_s", True, True),
)  # fmt: skip
# Blocks, by what is first found in a name; 12 where nothing is.
DEPTHS = (
    (r"^vig_(s|b)", 16),
    (r"^vitamin", 12), (r"^test_vit\d|^test_vit_relpos", 8), (r"^test_vit", 6), (r"_\d+x\d", 18), (r"^cait_m48", 48),
    (r"^cait_\w*36", 36), (r"^cait_", 24), (r"^xcit_\w+_24_", 24), (r"^xcit", 12), (r"_small_resnet", 8),
    (r"_xsmall_", 10), (r"wee_|little_", 14), (r"mediumd_", 20), (r"so150m", 18), (r"so400m", 27),
    (r"_pe_lang_large", 23), (r"large|intern300m", 24), (r"huge", 32), (r"giant|7b_", 40), (r"gigantic", 47),
    (r"_5b_", 56), (r"enormous", 64),
)  # fmt: skip


def family_of(backbone: str) -> Family | None:
    """The row of a timm name, with or without a tag or a hub before it; None for a CNN and what is not timm's."""
    name = _architecture(backbone)
    return None if backbone.startswith(GIVEN) else next((f for f in FAMILIES if re.match(f.pattern, name)), None)


def depth_of(backbone: str) -> int:
    """Blocks that a transformer without stages has at least, by its name."""
    name = _architecture(backbone)
    return next((depth for pattern, depth in DEPTHS if re.search(pattern, name)), 12)


def defaults_of(backbone: str) -> FeatureDefaults:
    """The row of a backbone as numbers."""
    family, name = family_of(backbone), _architecture(backbone)
    if family is None:
        return PYRAMID
    sides = [int(n) for n in re.findall(r"(?:_|to)(\d{3,4})(?=_|$)", name)]
    native = sides[-1] if sides else {"sam": 1024, "tes": 160}.get(name[:3], 224)
    if family.stages:
        return FeatureDefaults((1, 2), native, 3, False)
    patch = re.search(r"patch(\d+)|_p(\d+)", name)
    side = native if family.native else min(GRID * int(patch[1] or patch[2]), 512) if patch else 512
    depth = depth_of(backbone)
    layers = (depth // 2 - 1, 3 * depth // 4 - 1)
    if name.startswith("vig_"):  # nodes of a grid, and no final norm
        return FeatureDefaults(layers, native, 1, False)
    return FeatureDefaults(layers, side, 1, True)


def _architecture(backbone: str) -> str:
    return backbone.rpartition("/")[2].rpartition(":")[2].split(".")[0].lower()
