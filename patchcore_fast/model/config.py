"""The settings of a PatchCore model: one frozen, validated, JSON-serialisable record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch

from patchcore_fast.search import INDEXES

_CHOICES = {
    "fusion": ("concat", "amazon", "interpolated"),
    "reduction": ("project", "pool"),
    "precision": ("float32", "float16", "bfloat16"),
    "augment": ("none", "rotate", "custom"),
    "feature_resize": ("bilinear", "nearest"),
    "sampler": ("greedy", "elfs", "approximate", "random", "identity"),
    "distance": ("euclidean", "squared"),
    "score": ("max", "reweighted"),
    "scorer": ("distance", "reweighted", "influence", "noising"),
    "index": INDEXES,
    "upsample": ("bilinear", "nearest"),
    "border": ("reflect", "mirror"),
}
# What is right for everybody lies far inside of these; beyond them a setting costs memory or time without end.
_RANGES = {
    "layer_dim": (1, 16_384), "neighbours": (1, 1_024), "reweight_neighbours": (2, 1_024), "batch_size": (1, 65_536),
    "workers": (0, 1_024), "seed": (0, 2**63 - 1), "augmentations": (1, 10_000), "noise_draws": (2, 1_024),
    "patch_size": (1, 99), "shots": (1, 2**31), "dim": (1, 65_536),
}  # fmt: skip
_SIDE = 16_384  # pixels of an image
_LAYERS, _NAME = 100, 4_096  # layers, and characters of a name or path


@dataclass(frozen=True)
class PatchCoreConfig:
    """All that decides what a PatchCore model computes; checked when it is made.

    Parameters
    ----------
    backbone, layers, weights : see `features.Backbone`. The default is EfficientNet-Lite0 at strides 8 and 16.
    image_size : side in pixels, or (height, width); images are resized to exactly this, whatever their shape.
    crop : side or (height, width) of the centre crop after resizing, or None.
    fusion, patch_size, dim, layer_dim, feature_resize, reduction : see `features.FeatureExtractor`.
    precision : of features and bank, "float32", "float16" or "bfloat16"; see `features.FeatureExtractor`. Distances
        are those of the rounded rows, exact as ever.
    shots : training images that `fit` draws by `seed`, all when None.
    augment, augmentations : copies that `fit` makes of each training image to enrich the bank, and how many: "none",
        "rotate", or "custom" where `fit` was given a transform; see `model.fewshot`.
    sampler, ratio, seed : the coreset; see `samplers.make_sampler`.
    neighbours : k of the k-NN score of a patch, the mean over its k nearest bank rows.
    distance : "euclidean", or "squared" for squared Euclidean scores (what faiss returns to amazon's code).
    score : image score, "max" over patches or "reweighted" (Roth et al. 2022, Eq. 7).
    reweight_neighbours : b in Eq. 7.
    scorer : patch scores, by "distance", "influence" or "noising" (`scorers`, docs/scoring.md); "reweighted" is
        distance with score="reweighted".
    noise_scale, noise_draws : of "noising", see `scorers.NoiseProposal`; its seed is `seed`.
    index : how neighbours are searched, "exact" (ours), "faiss-flat" or "faiss-ivfpq"; see `search.build_index`.
    upsample, sigma, border : patch grid to score map; see `scoring.anomaly_map`. sigma is in input pixels.
    max_false_alarms : share of new normal images that may exceed the threshold of `fit`, in (0, 1).
    batch_size, workers, device : how it runs; they change no result. device None means CUDA where there is one.

    Raises
    ------
    TypeError, ValueError : a field of the wrong type or out of range; the message names it.
    """

    backbone: str = "tf_efficientnet_lite0"
    layers: tuple[int, ...] | tuple[str, ...] = (2, 3)
    weights: str = "auto"
    image_size: int | tuple[int, int] = 256
    crop: int | tuple[int, int] | None = None
    fusion: str = "concat"
    patch_size: int = 3
    dim: int | None = None
    layer_dim: int = 1024
    feature_resize: str = "bilinear"
    sampler: str = "greedy"
    ratio: float = 0.01
    seed: int = 0
    neighbours: int = 1
    distance: str = "euclidean"
    score: str = "max"
    reweight_neighbours: int = 9
    upsample: str = "bilinear"
    sigma: float = 4.0
    border: str = "reflect"
    max_false_alarms: float = 0.05
    batch_size: int = 16
    workers: int = 0
    device: str | None = None
    reduction: str = "project"
    precision: str = "float32"
    shots: int | None = None
    augment: str = "none"
    augmentations: int = 3
    scorer: str = "distance"
    noise_scale: float = 0.5
    noise_draws: int = 4
    index: str = "exact"

    def __post_init__(self) -> None:
        """Normalise lists and paths, then check every field."""
        for name in ("layers", "image_size", "crop"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.weights, Path):
            object.__setattr__(self, "weights", str(self.weights))
        for name in ("backbone", "weights"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise TypeError(f"PatchCoreConfig: {name} must be a non-empty string, got {getattr(self, name)!r}")
            if len(getattr(self, name)) > _NAME:
                raise ValueError(f"PatchCoreConfig: {name} must have at most {_NAME} characters")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"PatchCoreConfig: {name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        self._check_layers()
        self._check_sizes()
        for name in _RANGES:
            if getattr(self, name) is not None or name not in ("shots", "dim"):
                _integer(name, getattr(self, name), *_RANGES[name])
        if self.dim is not None and self.fusion == "concat":
            raise ValueError(
                'PatchCoreConfig: dim belongs to fusion="amazon" and "interpolated"; "concat" keeps every channel'
            )
        if self.patch_size % 2 == 0:
            raise ValueError(f"PatchCoreConfig: patch_size must be odd, got {self.patch_size}")
        if not 0 < _real("ratio", self.ratio) < 1:
            raise ValueError(
                f"PatchCoreConfig: ratio must be in (0, 1), got {self.ratio}; sampler 'identity' keeps all"
            )
        if not 0 < _real("max_false_alarms", self.max_false_alarms) < 1:
            raise ValueError(f"PatchCoreConfig: max_false_alarms must be in (0, 1), got {self.max_false_alarms}")
        if not 0 <= _real("sigma", self.sigma) <= max(self.resize):
            raise ValueError(
                f"PatchCoreConfig: sigma must be finite and >= 0, at most the {max(self.resize)} pixels of an image's "
                f"side, got {self.sigma}"
            )
        if self.noise_draws % 2:
            raise ValueError(f"PatchCoreConfig: noise_draws must be even, got {self.noise_draws}")
        if not 0 <= _real("noise_scale", self.noise_scale) <= 1e6:
            raise ValueError(f"PatchCoreConfig: noise_scale must lie between 0 and 1e6, got {self.noise_scale}")
        if self.device is not None:
            object.__setattr__(self, "device", str(self.device))
            try:
                torch.device(str(self.device))
            except (RuntimeError, ValueError, OverflowError) as error:
                raise ValueError(f"PatchCoreConfig: device {self.device!r} is not one torch knows") from error

    def _check_layers(self) -> None:
        if not isinstance(self.layers, tuple) or not self.layers:
            raise ValueError(f"PatchCoreConfig: layers must name at least one layer, got {self.layers!r}")
        if len(self.layers) > _LAYERS:
            raise ValueError(f"PatchCoreConfig: layers must be at most {_LAYERS}, got {len(self.layers)}")
        kinds = {int if isinstance(x, Integral) and not isinstance(x, bool) else type(x) for x in self.layers}
        if kinds not in ({int}, {str}):
            raise TypeError(
                f"PatchCoreConfig: layers must be all stage numbers or all module names, got {self.layers!r}"
            )

    def _check_sizes(self) -> None:
        for name in ("image_size", "crop"):
            value = getattr(self, name)
            if value is None and name == "crop":
                continue
            sides = value if isinstance(value, tuple) else (value, value)
            if len(sides) != 2:
                raise ValueError(f"PatchCoreConfig: {name} must be a side or (height, width), got {value!r}")
            for side in sides:
                _integer(name, side, 1, _SIDE)
        if self.crop is not None and any(c > s for c, s in zip(self.input_size, self.resize, strict=True)):
            raise ValueError(f"PatchCoreConfig: crop {self.crop} is larger than image_size {self.image_size}")

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

    @property
    def image_score(self) -> str:
        """How an image's score comes from its patches', whichever of `score` and `scorer` says so."""
        return "reweighted" if self.scorer == "reweighted" else self.score

    @property
    def scorer_name(self) -> str:
        """What tables call the scoring: "reweighted" in both ways to ask for it, "influence + reweighted" for both."""
        if self.image_score == "max":
            return self.scorer
        return "reweighted" if self.scorer in ("distance", "reweighted") else f"{self.scorer} + reweighted"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` gives an equal config back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PatchCoreConfig:
        """Inverse of `to_dict`. ValueError names fields that this version does not know."""
        values = dict(values)
        if "threshold_quantile" in values:  # older banks; there 1 meant the largest score
            values.setdefault("max_false_alarms", max(1 - values.pop("threshold_quantile"), 0.001))
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"PatchCoreConfig: unknown fields {', '.join(unknown)}")
        return cls(**values)

    @classmethod
    def amazon(cls, **overrides: Any) -> PatchCoreConfig:
        """The scoring path of amazon-science/patchcore-inspection (WideResNet-50, 224 px, 10 %)."""
        base: dict[str, Any] = {
            "backbone": "wide_resnet50_2", "layers": ("layer2", "layer3"), "image_size": 256, "crop": 224,
            "fusion": "amazon", "dim": 1024, "sampler": "approximate", "ratio": 0.1, "distance": "squared",
        }  # fmt: skip
        return cls(**(base | overrides))

    @classmethod
    def anomalib(cls, **overrides: Any) -> PatchCoreConfig:
        """The scoring path of anomalib's Patchcore (WideResNet-50, 256 px, 10 %, re-weighting with b = 9)."""
        base: dict[str, Any] = {
            "backbone": "wide_resnet50_2", "layers": ("layer2", "layer3"), "image_size": 256, "ratio": 0.1,
            "score": "reweighted", "reweight_neighbours": 9, "upsample": "nearest", "border": "mirror",
        }  # fmt: skip
        return cls(**(base | overrides))


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"PatchCoreConfig: {name} must be an integer, got {value!r}")
    if not low <= int(value) <= high:
        bound = f"at least {low}" if int(value) < low else f"at most {high}"
        raise ValueError(f"PatchCoreConfig: {name} must be {bound}, got {value}")


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"PatchCoreConfig: {name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        raise ValueError(f"PatchCoreConfig: {name} must be a number that floats have, got {value}") from None
