"""Settings of the features: network, image size, and how its layers become one row of numbers a patch."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import ClassVar

from patchcore_fast.config.base import Settings, setting

SIDE = 16_384  # pixels of an image; what is right for everybody lies far inside of this and of all ranges
LAYERS, NAME = 100, 4_096  # layers, and characters of a name or path


def side(text: str) -> int | tuple[int, int]:
    """`256` or `256x320` (height x width)."""
    sides = [int(part) for part in text.lower().split("x")]
    if len(sides) > 2:
        raise ValueError
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def names(text: str) -> tuple[int, ...] | tuple[str, ...]:
    """`2,3` (stage numbers) or `layer2,layer3` (module names)."""
    parts = [part.strip() for part in text.split(",")]
    numbers = [part.isdigit() for part in parts]
    if not all(parts) or any(numbers) != all(numbers):
        raise ValueError
    return tuple(int(p) for p in parts) if all(numbers) else tuple(parts)


@dataclass(frozen=True)
class FeatureSettings(Settings):
    """What the numbers of a patch are.

    Parameters
    ----------
    backbone, layers, weights : see `features.Backbone`. The default is EfficientNet-Lite0 at strides 8 and 16.
    image_size : side in pixels, or (height, width); images are resized to exactly this, whatever their shape.
    crop : side or (height, width) of the centre crop after resizing, or None.
    fusion, patch_size, dim, layer_dim, feature_resize, reduction : see `features.FeatureExtractor`.
    precision : of features and bank, "float32", "float16" or "bfloat16"; see `features.FeatureExtractor`. Distances
        are those of the rounded rows, exact as ever.
    """

    group: ClassVar[str] = "features"
    backbone: str = setting("tf_efficientnet_lite0", "any timm model with feature maps", parse=str, metavar="NAME")
    layers: tuple[int, ...] | tuple[str, ...] = setting(
        (2, 3), "stages by number, or modules by name, with commas", parse=names, metavar="L,L"
    )
    weights: str = setting("auto", '"auto" (ImageNet), "random", or a weight file', parse=str, metavar="W")
    image_size: int | tuple[int, int] = setting(
        256, "images are resized to this side, or HEIGHTxWIDTH", parse=side, metavar="PX"
    )
    crop: int | tuple[int, int] | None = setting(
        None, "centre crop after resizing, side or HEIGHTxWIDTH", parse=side, metavar="PX"
    )
    fusion: str = setting(
        "concat", 'how layers are put together; "amazon" pools to 1024, "interpolated" reduces to --dim',
        choices=("concat", "amazon", "interpolated"),
    )  # fmt: skip
    patch_size: int = setting(3, "patch neighbourhood, odd", least=1, most=99, metavar="N")
    dim: int | None = setting(
        None, 'numbers a patch has after the fusions "amazon" and "interpolated"', least=1, most=65_536, metavar="N"
    )
    layer_dim: int = setting(1024, least=1, most=16_384)
    feature_resize: str = setting("bilinear", choices=("bilinear", "nearest"))
    reduction: str = setting(
        "project", 'how "interpolated" reduces; "project" is random and seeded', choices=("project", "pool")
    )
    precision: str = setting("float32", "of features and bank", choices=("float32", "float16", "bfloat16"))

    def _check(self) -> None:
        if isinstance(self.weights, Path):
            self._set("weights", str(self.weights))
        self._text("backbone", NAME)
        self._text("weights", NAME)
        self._check_layers()
        self._check_sizes()
        if self.dim is not None and self.fusion == "concat":
            self._wrong("dim", 'belongs to fusion="amazon" and "interpolated"; "concat" keeps every channel')
        if self.patch_size % 2 == 0:
            self._wrong("patch_size", f"must be odd, got {self.patch_size}")

    def _check_layers(self) -> None:
        if not isinstance(self.layers, tuple) or not self.layers:
            self._wrong("layers", f"must name at least one layer, got {self.layers!r}")
        if len(self.layers) > LAYERS:
            self._wrong("layers", f"must be at most {LAYERS}, got {len(self.layers)}")
        kinds = {int if isinstance(x, Integral) and not isinstance(x, bool) else type(x) for x in self.layers}
        if kinds not in ({int}, {str}):
            self._wrong("layers", f"must be all stage numbers or all module names, got {self.layers!r}", TypeError)

    def _check_sizes(self) -> None:
        for name in ("image_size", "crop"):
            value = getattr(self, name)
            if value is None and name == "crop":
                continue
            sides = value if isinstance(value, tuple) else (value, value)
            if len(sides) != 2:
                self._wrong(name, f"must be a side or (height, width), got {value!r}")
            for number in sides:
                self._integer(name, number, 1, SIDE)
        if self.crop is not None and any(c > s for c, s in zip(self.input_size, self.resize, strict=True)):
            self._wrong("crop", f"{self.crop} is larger than image_size {self.image_size}")

    @property
    def resize(self) -> tuple[int, int]:
        """(height, width) every image is resized to."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) the backbone sees and the score maps have: the crop where there is one."""
        if self.crop is None:
            return self.resize
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)
