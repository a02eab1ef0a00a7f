"""Settings of the scoring: from distances to the scores of patches and images, and to maps."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import ClassVar

from patchcore_fast.config.base import Settings, nearest, setting

SCORERS = ("distance", "influence", "noising")
IMAGE_SCORES = ("max", "reweighted")  # and "top:SHARE"
# What a fitted model may be given anew: a bank is of no scoring, only its threshold is.
RESCORED = ("scorer", "image_score", "neighbours", "price", "noise_scale", "noise_draws")


def image_score(text: str) -> str:
    """`max`, `reweighted`, or `top:0.01`."""
    try:
        top_share(text)
    except ValueError as error:
        raise ArgumentTypeError(f"must be {', '.join(IMAGE_SCORES)} or top:SHARE, got {text!r}") from error
    return text


def top_share(image_score: str) -> float | None:
    """The share of the patches in "top:SHARE", None for another image score. ValueError: neither."""
    if image_score in IMAGE_SCORES:
        return None
    name, _, number = image_score.partition(":")
    share = float(number) if name == "top" else 0.0  # "top:" and words are no numbers
    if not 0 < share <= 1:
        raise ValueError(f"{image_score!r} is no image score")
    return share


@dataclass(frozen=True)
class ScoringSettings(Settings):
    """How patches, images and maps are scored.

    Parameters
    ----------
    scorer : patch scores, by "distance", "influence" or "noising" (`scorers`, docs/scoring.md).
    image_score : "max" over the patches of an image, "reweighted" (Roth et al. 2022, Eq. 7), or "top:0.01", the mean of
        the highest hundredth of the patches, at least one.
    reweight_neighbours : b in Eq. 7.
    distance : "euclidean", or "squared" for squared Euclidean scores (what faiss returns to amazon's code). Cosine
        scores (`FeatureSettings.metric`) are 1 - cos, and of neither.
    noise_scale, noise_draws : of "noising", see `scorers.NoiseProposal`; its seed is `seed`.
    upsample, sigma, border : patch grid to score map; see `scoring.anomaly_map`. sigma is in input pixels.
    """

    group: ClassVar[str] = "scoring"
    scorer: str = setting("distance", "how a patch is scored", choices=SCORERS)
    image_score: str = setting(
        "max",
        'how an image is scored: "max", "reweighted" (Eq. 7 of the paper), or "top:0.01", the mean of the highest 1 %% '
        "of the patches",
        parse=image_score,
        metavar="{max,reweighted,top:SHARE}",
    )
    reweight_neighbours: int = setting(9, least=2, most=1_024)
    distance: str = setting("euclidean", choices=("euclidean", "squared"))
    noise_scale: float = setting(0.5, "of noising: how much noise", parse=float, metavar="X")
    noise_draws: int = setting(
        4, "of noising: noisy copies of a patch, an even number", least=2, most=1_024, metavar="N"
    )
    upsample: str = setting("bilinear", choices=("bilinear", "nearest"))
    sigma: float = setting(4.0, "Gaussian smoothing of the anomaly map, in pixels", parse=float, metavar="PX")
    border: str = setting("reflect", choices=("reflect", "mirror"))

    def _check(self) -> None:
        self._text("image_score", 100)
        try:
            top_share(self.image_score)
        except ValueError:
            self._wrong(
                "image_score",
                f"must be one of {', '.join(IMAGE_SCORES)}, or top:SHARE with a share in (0, 1], got "
                f"{self.image_score!r}{nearest(self.image_score, IMAGE_SCORES)}",
            )
        if self.noise_draws % 2:
            self._wrong("noise_draws", f"must be even, got {self.noise_draws}")
        if not 0 <= self._real("noise_scale") <= 1e6:
            self._wrong("noise_scale", f"must lie between 0 and 1e6, got {self.noise_scale}")
        self._real("sigma")  # its range is that of the image, which PatchCoreConfig knows

    @property
    def scorer_name(self) -> str:
        """What tables call the scoring: "reweighted" for that image score alone, "influence + reweighted" for both."""
        if self.image_score == "max":
            return self.scorer
        return self.image_score if self.scorer == "distance" else f"{self.scorer} + {self.image_score}"
