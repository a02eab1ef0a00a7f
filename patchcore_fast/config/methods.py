"""Settings of the other methods (docs/methods.md): a group for each, and what each takes of PatchCore's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

from patchcore_fast.config.base import Settings, nearest, setting, settings_of
from patchcore_fast.config.families import depth_of, family_of
from patchcore_fast.config.patchcore import PatchCoreConfig
from patchcore_fast.config.record import GROUP_OF, GROUPS, grouped
from patchcore_fast.config.toml import kept_toml, read_toml, toml_text
from patchcore_fast.config.tracking import TrackingSettings
from patchcore_fast.errors import DataError

# Of PatchCore's settings what every method takes.
COMMON = (
    "backbone", "layers", "weights", "image_size", "aspect", "crop", "norm", "seed", "shots", "excluded",
    "image_score", "upsample", "sigma", "border", "max_false_alarms", "max_false_pixels",
    "hysteresis", "min_area", "batch_size", "workers", "device",
)  # fmt: skip


class MethodSettings(Settings):
    """Base of the groups of the methods.

    `uses` : names of those of PatchCore's settings that mean something to the method; the others stay at their default.
    """

    uses: ClassVar[tuple[str, ...]] = COMMON

    @classmethod
    def follows(cls, backbone: str) -> dict[str, Any]:
        """Settings of the features that follow from the backbone otherwise than PatchCore's; not if they are given."""
        return {"layers": three_layers(backbone)}

    def _wrong(self, name: str, wanted: str, kind: type[Exception] = ValueError) -> NoReturn:
        raise kind(f"MethodConfig: {self.group}.{name} {wanted}")

    def _between(self, name: str, low: float, high: float, open_low: bool = False) -> None:
        """A number in [low, high], or in (low, high]."""
        value = self._real(name)
        if not low <= value <= high or (open_low and value == low):
            self._wrong(name, f"must lie in {'(' if open_low else '['}{low:g}, {high:g}], got {value}")


@dataclass(frozen=True)
class PadimSettings(MethodSettings):
    """PaDiM (Defard et al. 2020).

    Parameters
    ----------
    dim : channels that are taken of those of all layers, drawn by the seed; all where there are fewer.
    ridge : added to the diagonal of each covariance.
    """

    group: ClassVar[str] = "padim"
    dim: int = setting(100, "channels that are drawn of those of all layers", least=1, most=4_096, metavar="N")
    ridge: float = setting(0.01, "added to the diagonal of each covariance", parse=float, metavar="X")

    def _check(self) -> None:
        self._between("ridge", 0, 1e6, open_low=True)


@dataclass(frozen=True)
class SubspaceSettings(MethodSettings):
    """Residual of a PCA of patch features (SubspaceAD, 2026).

    Parameters
    ----------
    variance : share of the variance that the leading directions are to explain, the fewest that do.
    """

    group: ClassVar[str] = "subspace"
    uses: ClassVar[tuple[str, ...]] = (*COMMON, "patch_size", "feature_resize")
    variance: float = setting(0.99, "share of the variance that counts as normal", parse=float, metavar="S")

    @classmethod
    def follows(cls, _backbone: str) -> dict[str, Any]:
        """PatchCore's layers."""
        return {}

    def _check(self) -> None:
        self._between("variance", 0, 1, open_low=True)


@dataclass(frozen=True)
class SimpleNetSettings(MethodSettings):
    """SimpleNet (Liu et al., CVPR 2023).

    Parameters
    ----------
    epochs, steps : rounds over the images, and passes of the discriminator in each.  batch_size : images in a step.
    noise : standard deviation of what makes features anomalous.  margin : of the loss, on both sides of zero.
    adapter_rate, rate, weight_decay : of the adapter (AdamW) and of the discriminator (Adam).
    held_out : share of the training images that only the threshold sees.
    """

    group: ClassVar[str] = "simplenet"
    uses: ClassVar[tuple[str, ...]] = (*COMMON, "patch_size", "fusion", "dim", "layer_dim", "feature_resize")
    epochs: int = setting(40, "rounds over the images", least=1, most=100_000, metavar="N")
    steps: int = setting(4, "passes of the discriminator an epoch", least=1, most=1_000, metavar="N")
    batch_size: int = setting(8, "images in a step", least=1, most=65_536, metavar="N")
    noise: float = setting(0.015, "standard deviation of the noise on features", parse=float, metavar="X")
    margin: float = setting(0.5, "of the loss, on both sides of zero", parse=float, metavar="X")
    adapter_rate: float = setting(1e-4, "learning rate of the adapter", parse=float, metavar="X")
    rate: float = setting(2e-4, "learning rate of the discriminator", parse=float, metavar="X")
    weight_decay: float = setting(1e-5, "of the discriminator", parse=float, metavar="X")
    held_out: float = setting(0.1, "share of the images that only the threshold sees", parse=float, metavar="S")

    @classmethod
    def follows(cls, _backbone: str) -> dict[str, Any]:
        """PatchCore's layers."""
        return {}

    def _check(self) -> None:
        for name in ("noise", "margin", "adapter_rate", "rate"):
            self._between(name, 0, 1e3, open_low=True)
        self._between("weight_decay", 0, 1e3)
        self._between("held_out", 0, 0.5)


@dataclass(frozen=True)
class ReverseDistillationSettings(MethodSettings):
    """Reverse distillation (Deng and Li, CVPR 2022).

    Parameters
    ----------
    loss : 1 - cos of the flattened map of an image ("map", as the published code) or of each position ("position", as
        the paper's formula); the sum over layers.
    epochs : rounds over the images.  batch_size : images in a step.
    learning_rate, betas, weight_decay : of Adam.
    warmup : epochs in which the rate grows to its value.  decay_at : share of the epochs after which it is a tenth.
    held_out : share of the training images that only the threshold sees.
    """

    group: ClassVar[str] = "rd"
    uses: ClassVar[tuple[str, ...]] = (  # maps of all layers are up-sampled before they are added, in one way
        *(name for name in COMMON if name != "upsample"), "scorer", "noise_scale", "noise_draws",
    )  # fmt: skip
    loss: str = setting("map", "cosine of whole maps, or of positions", choices=("map", "position"))
    epochs: int = setting(100, "rounds over the images", least=1, most=100_000, metavar="N")
    learning_rate: float = setting(0.005, "of Adam", parse=float, metavar="X")
    betas: tuple[float, float] = setting((0.5, 0.999))
    batch_size: int = setting(16, "images in a step", least=1, most=65_536, metavar="N")
    weight_decay: float = setting(0.0, "of Adam", parse=float, metavar="X")
    warmup: int = setting(0, "epochs in which the rate grows to its value", least=0, most=100_000, metavar="N")
    decay_at: float | None = setting(
        None, "share of the epochs after which the rate is a tenth", parse=float, metavar="S"
    )
    held_out: float = setting(0.1, "share of the images that only the threshold sees", parse=float, metavar="S")

    def _check(self) -> None:
        self._between("learning_rate", 0, 1e3, open_low=True)
        self._between("weight_decay", 0, 1e3)
        self._between("held_out", 0, 0.5)
        if self.decay_at is not None:
            self._between("decay_at", 0, 1, open_low=True)
        b = self.betas
        plain = isinstance(b, tuple) and len(b) == 2 and all(isinstance(x, int | float) for x in b)
        if not plain or not all(0 <= x < 1 for x in b):
            self._wrong("betas", f"must be two numbers in [0, 1), got {b!r}")


_KINDS = (PadimSettings, SubspaceSettings, SimpleNetSettings, ReverseDistillationSettings)
METHODS: Mapping[str, type[MethodSettings]] = MappingProxyType({kind.group: kind for kind in _KINDS})


@dataclass(frozen=True)
class MethodPreset:
    """Settings of a publication.

    Attributes
    ----------
    method : one of METHODS.  base : single settings of PatchCore's groups, over the defaults.  settings : the method's.
    source : the publication and code that they are of.  differs : what is not as there, one point each.
    """

    method: str
    base: Mapping[str, Any]
    settings: Mapping[str, Any]
    source: str
    differs: tuple[str, ...] = ()


RD_DIFFERS = (
    "A small backbone in place of WideResNet-50: blocks are those that the public code has for ResNet-18, and as its "
    "maps have negative values, the decoder's do not end in a ReLU.",
    "100 epochs, in the public code 200.",
    "A tenth of the training images is held out for the threshold.",
)
METHOD_PRESETS: Mapping[str, MethodPreset] = MappingProxyType({
    "padim": MethodPreset(
        "padim", {"backbone": "resnet18", "image_size": 256, "crop": 224, "upsample": "bilinear"}, {"dim": 100},
        "PaDiM, Defard et al., ICPR 2021 workshops, its ResNet-18 with 100 of 448 channels",
        ("Weights are timm's, not torchvision's.", "The threshold is that of docs/threshold.md."),
    ),
    "subspace": MethodPreset(
        "subspace", {"image_score": "top:0.01"}, {"variance": 0.99},
        "SubspaceAD, Lendering et al., CVPR 2026, on the default backbone",
        ("A small CNN whose layers stand side by side, in place of DINOv2-giant with the mean of seven layers.",
         "No augmented copies of the few images, there 30 of each.", "The residual's norm, there its square.",
         "The image score is the mean of the highest 1 % of the patches, there of the map's pixels."),
    ),
    "simplenet": MethodPreset("simplenet", {}, {}, "SimpleNet, Liu et al., CVPR 2023, on the default backbone"),
    "rd": MethodPreset(
        "rd", {}, {}, "Reverse distillation, Deng and Li, CVPR 2022, on the default backbone", RD_DIFFERS,
    ),
    "rd-ader": MethodPreset(
        "rd", {}, {"batch_size": 8, "weight_decay": 1e-4, "warmup": 5, "decay_at": 0.8},
        "Reverse distillation as it is trained in pipelines made like ADer (zhangzjn/ADer), on the default backbone",
        ("ADer's own configuration has a batch of 16 and no warm-up, gives Adam no weight decay, and clips gradients "
         "at 5; with other batches it changes the learning rate in proportion.", RD_DIFFERS[0], RD_DIFFERS[-1]),
    ),
})  # fmt: skip


@dataclass(frozen=True)
class MethodConfig:
    """All that decides what a model of a method computes; checked when it is made.

    Parameters
    ----------
    method : one of METHODS.
    base : PatchCore's settings, of which those that mean nothing to the method (`MethodSettings.uses`) are at their
        default. `layers` follow from the backbone as the method wants it where they are not given.
    settings : the method's own.

    Raises
    ------
    TypeError, ValueError : no such method, settings of another one, or a setting that means nothing to it.
    """

    method: str
    base: PatchCoreConfig
    settings: MethodSettings

    def __post_init__(self) -> None:
        """Hold the parts against each other."""
        kind = settings_kind(self.method)
        for name, wanted in (("base", PatchCoreConfig), ("settings", kind)):
            if not isinstance(given := getattr(self, name), wanted):
                raise TypeError(f"MethodConfig: {name} must be {wanted.__name__}, got {type(given).__name__}")
        features = self.base.features
        own = {n: v for n, v in kind.follows(features.backbone).items() if n in features.followed}
        object.__setattr__(self, "base", self.base.replace(**own))
        plain = PatchCoreConfig(backbone=features.backbone)
        for name in GROUP_OF:
            if name not in kind.uses and getattr(self.base, name) not in (getattr(plain, name), None):
                _useless(self.method, name, getattr(self.base, name))
        if self.base.image_score == "reweighted":
            raise ValueError(
                f'MethodConfig: scoring.image_score "reweighted" looks into a bank, {self.method} has none'
            )
        if self.input_size is None:
            raise ValueError(
                f'MethodConfig: {self.method} takes images of one size: features.aspect "keep" needs crop, and '
                'image_size "native" is of PatchCore alone'
            )

    @property
    def input_size(self) -> Any:
        """(height, width) of the images and of the score maps."""
        return self.base.features.input_size

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the method's name, PatchCore's groups as far as it uses them, and its own group."""
        uses = set(type(self.settings).uses)
        groups = {group: {name: value for name, value in values.items() if name in uses}
                  for group, values in self.base.to_dict().items()}  # fmt: skip
        own = {f.name: _plain(getattr(self.settings, f.name)) for f in settings_of(type(self.settings))}
        return {"method": self.method} | {g: v for g, v in groups.items() if v} | {self.method: own}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MethodConfig:
        """Inverse of `to_dict`; what is left out is as by default.

        Raises
        ------
        TypeError, ValueError : as the class, and for what this version does not know.
        """
        values = dict(values)
        method = values.pop("method", None)
        kind = settings_kind(method)
        own = values.pop(method, {})
        for name, group in ((method, own), *values.items()):
            if name != method and name not in GROUPS:
                home = f": it belongs into [{GROUP_OF[name]}]" if name in GROUP_OF else nearest(name, [method, *GROUPS])
                raise ValueError(f"MethodConfig: unknown fields {name}{home}")
            if not isinstance(group, Mapping):
                raise TypeError(f"MethodConfig: {name} must hold settings by name, got {group!r}")
        known = [f.name for f in settings_of(kind)]
        if strange := [name for name in own if name not in known]:
            raise ValueError(f"MethodConfig: unknown fields {method}.{strange[0]}{nearest(strange[0], known)}")
        return cls(method, PatchCoreConfig.from_dict(values), kind(**own))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], preset: str | None = None) -> MethodConfig:
        """The settings of a TOML file: `method = "..."` above tables as of `to_dict`.

        What it leaves out, its method too, is as in a preset of METHOD_PRESETS, or as by default.

        Raises
        ------
        DataError : no such file, no TOML, or a setting that is wrong; the message names file, group and setting.
        ValueError : no such preset.
        """
        if not os.path.isfile(path):
            raise DataError(f"{os.fspath(path)}: no such file")
        beneath = {} if preset is None else _preset(preset)
        try:
            values = read_toml(path)
            TrackingSettings.of_table(values.pop(TrackingSettings.group, {}))  # of the run, not of the model
            if "method" not in values and not beneath:
                raise ValueError(f"says no method: method = one of {', '.join(METHODS)}")
            if beneath and values.setdefault("method", beneath["method"]) != beneath["method"]:
                raise ValueError(f"is of method {values['method']!r}, the preset {preset} of {beneath['method']!r}")
            for name, group in beneath.items():
                if isinstance(group, Mapping) and isinstance(above := values.setdefault(name, {}), dict):
                    values[name] = {**group, **above}
            return cls.from_dict(values)
        except (TypeError, ValueError) as error:
            said = str(error).removeprefix("MethodConfig: ").removeprefix("PatchCoreConfig: ")
            raise DataError(f"{os.fspath(path)}: {said}") from error

    def to_toml(self, path: str | os.PathLike[str] | None = None) -> str:
        """The text of a file that `from_toml` reads; written whole where a path is given."""
        groups = self.to_dict()
        return kept_toml(f'method = "{groups.pop("method")}"\n\n{toml_text(groups)}', path)

    @classmethod
    def preset(cls, name: str) -> MethodConfig:
        """The settings of a publication, one of METHOD_PRESETS. ValueError: no such preset."""
        return cls.from_dict(_preset(name))


def default_config(method: str) -> MethodConfig:
    """A method's defaults. ValueError: no such method."""
    return MethodConfig(method, PatchCoreConfig(), settings_kind(method)())


def settings_kind(method: Any) -> type[MethodSettings]:
    """The group of a method. ValueError: no such method."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"MethodConfig: method must be one of {', '.join(METHODS)}, got {method!r}"
                         f"{nearest(method, METHODS)}")  # fmt: skip
    return METHODS[method]


def three_layers(backbone: str) -> tuple[int, ...]:
    """A CNN's stages of strides 4, 8 and 16, a staged transformer's first three, or three blocks of a plain one."""
    family = family_of(backbone)
    if family is None:
        return (1, 2, 3)
    depth = depth_of(backbone)
    return (0, 1, 2) if family.stages else (depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1)


def _preset(name: str) -> dict[str, Any]:
    if name not in METHOD_PRESETS:
        raise ValueError(f"MethodConfig: preset must be one of {', '.join(METHOD_PRESETS)}, got {name!r}"
                         f"{nearest(name, METHOD_PRESETS)}")  # fmt: skip
    found = METHOD_PRESETS[name]
    return {"method": found.method, **grouped(found.base), found.method: dict(found.settings)}


def _useless(method: str, name: str, value: Any) -> NoReturn:
    raise ValueError(f"MethodConfig: {GROUP_OF[name]}.{name} means nothing to method {method!r}, got {value!r}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
