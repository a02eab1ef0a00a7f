"""Settings of the scoring: from distances to the scores of patches and images, and to maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from patchcore_fast.config.base import Settings, setting

SCORERS = ("distance", "influence", "noising")
IMAGE_SCORES = ("max", "reweighted")
# What a fitted model may be given anew: a bank is of no scoring, only its threshold is.
RESCORED = ("scorer", "image_score", "neighbours", "noise_scale", "noise_draws")


@dataclass(frozen=True)
class ScoringSettings(Settings):
    """How patches, images and maps are scored.

    Parameters
    ----------
    scorer : patch scores, by "distance", "influence" or "noising" (`scorers`, docs/scoring.md).
    image_score : "max" over the patches of an image, or "reweighted" (Roth et al. 2022, Eq. 7).
    reweight_neighbours : b in Eq. 7.
    distance : "euclidean", or "squared" for squared Euclidean scores (what faiss returns to amazon's code).
    noise_scale, noise_draws : of "noising", see `scorers.NoiseProposal`; its seed is `seed`.
    upsample, sigma, border : patch grid to score map; see `scoring.anomaly_map`. sigma is in input pixels.
    """

    group: ClassVar[str] = "scoring"
    scorer: str = setting("distance", "how a patch is scored", choices=SCORERS)
    image_score: str = setting(
        "max", 'how an image is scored; "reweighted" is Eq. 7 of the paper', choices=IMAGE_SCORES
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
        return "reweighted" if self.scorer == "distance" else f"{self.scorer} + reweighted"
