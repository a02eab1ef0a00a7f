"""The signals of all rows of a store, as a file (docs/chain.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from patchcore_fast.chain import ChainFile
from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.model.chained import dynamics_of, image_of, labels_of, per_image
from patchcore_fast.model.stored import StoredRows
from patchcore_fast.progress import Progress
from patchcore_fast.scores import KMeans, difficulty, noise_instability, rarity, representativeness, support

DYNAMICS = {"difficulty": "aum", "forgetting": "forgetting", "el2n": "el2n", "dynamics": "mean"}  # -> `Dynamics.score`
_NOISE = 0.01  # of the noise, in root mean squares of a number of the features
_DRAWS = 2


@dataclass
class _Task:
    """What the signals are computed from.

    clusters, dynamics : files and their names, or None.
    """

    store: FeatureStore
    clusters: tuple[ChainFile, str] | None
    dynamics: tuple[ChainFile, str] | None
    common: dict[str, Any]

    @cached_property
    def rows(self) -> torch.Tensor:
        return StoredRows(self.store).features

    def spread(self, level: str, values: torch.Tensor) -> torch.Tensor:
        """Of each row: [N] as they are, [I] to the rows of each image."""
        return values if level == "patch" else values[image_of(self.store)]

    def representativeness(self) -> torch.Tensor:
        if self.clusters is not None and self.clusters[0].settings.get("level") == "patch":
            file, name = self.clusters
            _, labels = labels_of(file, self.store, name)
            if "centers" in file.arrays:
                centers = file.array("centers", "float32", (-1, self.store.shape[1]), name)
                far = file.array("distances", "float32", (len(labels),), name)
                if not 0 <= int(labels.min()) <= int(labels.max()) < len(centers):
                    raise DataError(f"{name}: its labels are of centres that it has not")
                known = KMeans(*map(torch.from_numpy, (centers, labels, far)))
                return representativeness(self.rows, clusters=known, **self.common)
        return representativeness(self.rows, **self.common)

    def rarity(self) -> torch.Tensor:
        return rarity(self.rows, **self.common)

    def instability(self) -> torch.Tensor:
        size = float(torch.stack([part.double().square().mean() for part in self.rows[:4096].split(512)]).mean()) ** 0.5
        told = {name: self.common[name] for name in ("seed", "progress")}
        return noise_instability(self.rows, _NOISE * max(size, 1e-12), _DRAWS, **told)

    def support(self) -> torch.Tensor:
        return -support(self.rows, image_ids=image_of(self.store), **self.common).distance

    def trained(self, name: str) -> torch.Tensor:
        """A score by training dynamics: of the file of them, else of a short training on clusters."""
        if self.dynamics is not None:
            level, found = dynamics_of(self.dynamics[0], self.store, self.dynamics[1])
            return self.spread(level, found.score(DYNAMICS[name]))
        if name == "dynamics":
            raise DataError("signal dynamics: the mean of the scores of a training; give --dynamics, of train-proxy")
        return getattr(self._own, "score" if name == "difficulty" else name)

    @cached_property
    def _own(self) -> Any:
        labels = None
        if self.clusters is not None:
            level, found = labels_of(self.clusters[0], self.store, self.clusters[1])
            labels = self.spread(level, torch.from_numpy(found))
        return difficulty(self.rows, labels=labels, **self.common)


GEOMETRY: dict[str, Callable[[_Task], torch.Tensor]] = {
    "representativeness": _Task.representativeness, "rarity": _Task.rarity, "instability": _Task.instability,
    "support": _Task.support,
}  # fmt: skip
SIGNALS = (*GEOMETRY, *DYNAMICS)


def score_store(
    store: FeatureStore,
    signals: Sequence[str],
    *,
    clusters: tuple[ChainFile, str] | None = None,
    dynamics: tuple[ChainFile, str] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = None,
) -> ChainFile:
    """Signals of all rows, [N] float32 each; what is known of images is spread to their rows.

    Parameters
    ----------
    signals : of SIGNALS. "representativeness" (of given clusters where they are k-means of patches), "rarity",
        "instability" (under noise of 1 % of the features' size), "support" (minus the distance to other images);
        "difficulty" (minus the area under the margin), "forgetting", "el2n" and "dynamics", their mean by rank.
    clusters : a file of clusters with its name; the labels of the short training that the dynamics' scores are then of,
        where no dynamics are given.
    dynamics : a file of dynamics with its name.

    Raises
    ------
    ValueError : an unknown signal, or none.  DataError : files that do not hold what they should; fewer than three
    images, and support wanted.
    """
    if not signals or (unknown := [name for name in signals if name not in SIGNALS]):
        raise ValueError(f"score_store: signals must be some of {', '.join(SIGNALS)}, got {unknown if signals else []}")
    if "support" in signals and len(store.images) < 3:
        raise DataError(f"{store.name}: has fewer than three images, and so no support of patches by others")
    task = _Task(store, clusters, dynamics, {"seed": seed, "device": device, "progress": progress})
    arrays = {}
    for name in dict.fromkeys(signals):
        found = GEOMETRY[name](task) if name in GEOMETRY else task.trained(name)
        arrays[name] = found.float().cpu().numpy()
    of = {what: given[0].digest for what, given in (("clusters", clusters), ("dynamics", dynamics)) if given}
    return ChainFile.of("scores", store, {"seed": seed, "copies": per_image(store) - 1, **of}, arrays)
