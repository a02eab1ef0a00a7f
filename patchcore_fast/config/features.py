"""Settings of the features: network, image size, and how its layers become one row of numbers a patch."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import ClassVar

from patchcore_fast.config.base import Settings, setting
from patchcore_fast.config.families import defaults_of

SIDE = 16_384  # pixels of an image; what is right for everybody lies far inside of this and of all ranges
FUSIONS = ("concat", "amazon", "interpolated", "graph")
REDUCTIONS = ("project", "pool", "pca", "whiten")
FITTED = ("pca", "whiten")  # those of them that are learnt from the training images
LAYERS, NAME = 100, 4_096  # layers, and characters of a name or path
NATIVE = "native"  # the image size that is each image's own


def side(text: str) -> int | tuple[int, int]:
    """`256` or `256x320` (height x width)."""
    sides = [int(part) for part in text.lower().split("x")]
    if len(sides) > 2:
        raise ValueError
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def size(text: str) -> int | tuple[int, int] | str:
    """As `side`, or `native`."""
    return NATIVE if text == NATIVE else side(text)


def names(text: str) -> tuple[int, ...] | tuple[str, ...]:
    """`2,3` (stage numbers) or `layer2,layer3` (module names)."""
    parts = [part.strip() for part in text.split(",")]
    numbers = [part.isdigit() for part in parts]
    if not all(parts) or any(numbers) != all(numbers):
        raise ValueError
    return tuple(int(p) for p in parts) if all(numbers) else tuple(parts)


def yes_or_no(text: str) -> bool:
    """`yes` or `no`."""
    if text.lower() not in ("yes", "no", "true", "false"):
        raise ValueError
    return text.lower() in ("yes", "true")


@dataclass(frozen=True)
class FeatureSettings(Settings):
    """What the numbers of a patch are.

    Parameters
    ----------
    backbone, layers, weights, norm : see `features.Backbone`. The default is EfficientNet-Lite0 at strides 8 and 16.
        layers, norm, image_size and patch_size are what `config.families` has for the backbone where they are None;
        `replace(backbone=...)` takes them anew, but for those that were given. A bank, a TOML file and
        `dataclasses.replace` of this group give them all.
    image_size : side in pixels, or (height, width); "native" takes images as they are, which needs `tile`.
    aspect : "squash" resizes images to exactly image_size, whatever their shape; "keep" resizes the shorter side to it
        and lets the longer one follow. "native" images are not resized, so it says nothing of them.
    crop : side or (height, width) of the centre crop after resizing, or None.
    tile, overlap : side of the square tiles that the backbone sees one by one, None for whole images, and the pixels
        that neighbours share; see `features.TiledExtractor`.
    fusion, patch_size, dim, layer_dim, feature_resize, reduction : see `features.FeatureExtractor`.
    graph_neighbours, graph_dilation : of fusion="graph"; see `features.graph.nearest_nodes`.
    metric : "euclidean", or "cosine": rows of length 1, and scores that are cosine distances, 1 - cos.
    precision : of features and bank, "float32", "float16" or "bfloat16"; see `features.FeatureExtractor`. Distances
        are those of the rounded rows, exact as ever.
    """

    group: ClassVar[str] = "features"
    backbone: str = setting(
        "tf_efficientnet_lite0", "any timm model with feature maps, vig_* or pvig_*", parse=str, metavar="NAME"
    )
    layers: tuple[int, ...] | tuple[str, ...] = setting(
        None, "stages or blocks by number from 0, or modules by name, with commas (default by the backbone: 2,3)",
        parse=names, metavar="L,L",
    )  # fmt: skip
    weights: str = setting("auto", '"auto" (ImageNet), "random", or a weight file', parse=str, metavar="W")
    image_size: int | tuple[int, int] | str = setting(
        None,
        'images are resized to this side, or HEIGHTxWIDTH (default by the backbone: 256); "native" leaves them as they '
        "are, with --tile",
        parse=size, metavar="PX",
    )  # fmt: skip
    aspect: str = setting(
        "squash", 'of resized images; "keep" takes --image-size for the shorter side', choices=("squash", "keep")
    )
    crop: int | tuple[int, int] | None = setting(
        None, "centre crop after resizing, side or HEIGHTxWIDTH", parse=side, metavar="PX"
    )
    tile: int | None = setting(
        None, "the backbone sees square tiles of this side, for images of any size", least=1, most=SIDE, metavar="PX"
    )
    overlap: int = setting(64, "of neighbouring tiles", least=0, most=SIDE, metavar="PX")
    fusion: str = setting(
        "concat",
        'how layers are put together; "amazon" pools to 1024, "interpolated" reduces to --dim, "graph" adds what the '
        "nearest patches of the image have more",
        choices=FUSIONS,
    )
    graph_neighbours: int = setting(
        9,
        'patches of the image that one is compared with by "graph", itself the first',
        least=1,
        most=1024,
        metavar="K",
    )
    graph_dilation: int = setting(1, 'takes every D-th of the K * D nearest, by "graph"', least=1, most=64, metavar="D")
    patch_size: int = setting(
        None, "patch neighbourhood, odd (default by the backbone: 3, for tokens 1)", least=1, most=99, metavar="N"
    )
    norm: bool = setting(
        None,
        "final norm of a ViT on its tokens (default by the backbone: yes for ViTs)",
        parse=yes_or_no,
        metavar="yes|no",
    )
    dim: int | None = setting(
        None, 'numbers a patch has after "amazon", "interpolated" and "graph", or after "pca" and "whiten"',
        least=1, most=65_536, metavar="N",
    )  # fmt: skip
    layer_dim: int = setting(1024, least=1, most=16_384)
    feature_resize: str = setting("bilinear", choices=("bilinear", "nearest"))
    reduction: str = setting(
        "project", 'how --dim is reached; "project" is random and seeded, "pca" and "whiten" learn from the images',
        choices=REDUCTIONS,
    )  # fmt: skip
    metric: str = setting("euclidean", "how patches are compared", choices=("euclidean", "cosine"))
    precision: str = setting("float32", "of features and bank", choices=("float32", "float16", "bfloat16"))

    def _settle(self) -> None:
        if not isinstance(self.backbone, str):
            return  # `_check` says so
        by_name = defaults_of(self.backbone)._asdict()
        self._set("_followed", tuple(name for name in by_name if getattr(self, name) is None))
        for name in self.followed:
            self._set(name, by_name[name])

    def _check(self) -> None:
        if isinstance(self.weights, Path):
            self._set("weights", str(self.weights))
        self._text("backbone", NAME)
        if not isinstance(self.norm, bool):
            self._wrong("norm", f"must be true or false, got {self.norm!r}", TypeError)
        self._text("weights", NAME)
        self._check_layers()
        self._check_sizes()
        if self.reduction in FITTED and self.fusion == "amazon":
            self._wrong("reduction", f'{self.reduction} goes with every fusion, but not with "amazon"')
        if self.fusion == "graph":
            self._check_graph()
        if self.dim is not None and self.fusion == "concat" and self.reduction not in FITTED:
            self._wrong(
                "dim",
                'belongs to fusion="amazon", "interpolated" and "graph", or to reduction="pca" and "whiten"; "concat" '
                "keeps every channel",
            )
        if self.patch_size % 2 == 0:
            self._wrong("patch_size", f"must be odd, got {self.patch_size}")

    def _check_graph(self) -> None:
        if self.reduction == "pool":
            self._wrong(
                "reduction", 'pool averages neighbouring channels, fusion="graph" knows project, pca and whiten'
            )
        if self.tile is not None:
            self._wrong("tile", 'has no part in fusion="graph", whose neighbours are looked for in the whole image')

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
            if (value is None and name == "crop") or (value == NATIVE and name == "image_size"):
                continue
            sides = value if isinstance(value, tuple) else (value, value)
            if len(sides) != 2:
                self._wrong(name, f"must be a side or (height, width), got {value!r}")
            for number in sides:
                self._integer(name, number, 1, SIDE)
        if self.tile is not None and self.overlap >= self.tile:
            self._wrong("overlap", f"must be less than the tile of {self.tile} pixels, got {self.overlap}")
        if self.resize is None:
            if self.tile is None:
                self._wrong("image_size", '"native" needs tile: whole images of any size do not fit into memory')
            if self.crop is not None:
                self._wrong("crop", 'is cut from resized images, image_size is "native"')
        elif self.aspect == "keep" and self.resize[0] != self.resize[1]:
            self._wrong("image_size", f'must be one side with aspect="keep", the shorter, got {self.image_size!r}')
        elif self.crop is not None and any(c > s for c, s in zip(_pair(self.crop), self.resize, strict=True)):
            self._wrong("crop", f"{self.crop} is larger than image_size {self.image_size}")

    @property
    def fitted_reduction(self) -> str | None:
        """The reduction, where it is one that is learnt from the training images."""
        return self.reduction if self.reduction in FITTED else None

    @property
    def resize(self) -> tuple[int, int] | None:
        """(height, width) every image is resized to, at least to with aspect="keep"; None for "native"."""
        return None if isinstance(self.image_size, str) else _pair(self.image_size)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) of what is looked at, and of the score maps: the crop where there is one.

        None where it differs from image to image.
        """
        if self.crop is not None:
            return _pair(self.crop)
        return self.resize if self.aspect == "squash" else None

    @property
    def seen_size(self) -> tuple[int, int] | None:
        """(height, width) of what the backbone sees at once: a tile, or else `input_size`."""
        return self.input_size if self.tile is None else (self.tile, self.tile)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
