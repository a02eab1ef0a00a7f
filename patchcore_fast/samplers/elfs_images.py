"""ELFS proper: images chosen by how hard a proxy finds them, trained on clusters in the place of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inputs import Features, as_rows
from ..kernels.ranks import Held
from ..scores import Dynamics, Layout, clustering_heads, k_means, train_proxy
from ..scores.dynamics import SCORES
from .base import Sampler, check_count, check_percentage, check_seed
from .parts import Parts
from .two_level import image_means

CLUSTERINGS = ("kmeans", "heads")
_LEAST = 4  # images: two clusters of two


class ELFSImageSampler(Sampler):
    """Chooses images as ELFS does: an image sampler for `TwoLevelSampler`, or a sampler of embeddings.

    1. Pseudo-labels: clusters of the embeddings, by k-means or by linear heads (`scores.clustering_heads`).
    2. A small proxy learns them, and how it fares with each image is kept (`scores.train_proxy`).
    3. Of the difficulty scores both ends go: first the hardest `prune_hard` of all images, which ELFS takes for wrong
       labels and noise; of the others the hardest are kept.

    So at percentage + prune_hard = 1 exactly the hardest images go, and nothing else.

    Parameters
    ----------
    percentage : share of the images to keep, in (0, 1): int(I * percentage) of them, at least one.
    score : "aum" (the mean margin, ELFS's own), "forgetting", "el2n", or "mean", that of the three by rank.
    labels : [I] integers in the place of clusters, in the order of the images; at least two classes.
    clustering : "kmeans" or "heads".
    n_clusters : None: an eighth of the images, between 2 and 10.
    epochs : of the proxy.
    prune_hard : beta, the share of all images that goes at the hard end, in [0, 1); int(I * beta) of them.
    seed, device : of clusters and proxy; device None: where the embeddings are. Heads are trained on the CPU.
    embeddings : [I, E], where nobody hands them over: `FeatureStore.embeddings`, or another network's.

    Attributes
    ----------
    labels_ : [I] int64, what the proxy learnt.  dynamics_ : `scores.Dynamics` of the images.
    scores_ : {"difficulty": [I] float32}, hard is large.
    report_ : what was done, in JSON's types; "seconds" and "memory" (bytes) of "cluster" and "proxy".

    Labels and embeddings that are given here are of all images: where `PatchCore.fit` selects again without some of
    them, for its threshold, it leaves that out with a warning. Those that it hands over itself have no such limit.
    """

    uses_embeddings = True

    def __init__(
        self,
        percentage: float,
        *,
        score: str = "aum",
        labels: Tensor | np.ndarray | None = None,
        clustering: str = "kmeans",
        n_clusters: int | None = None,
        epochs: int = 20,
        prune_hard: float = 0.1,
        seed: int = 0,
        device: torch.device | str | None = None,
        embeddings: Features | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.percentage = check_percentage(percentage)
        if score not in (*SCORES, "mean"):
            raise ValueError(f"{name}: score must be one of {', '.join(SCORES)}, mean, got {score!r}")
        if clustering not in CLUSTERINGS:
            raise ValueError(f"{name}: clustering must be kmeans or heads, got {clustering!r}")
        if isinstance(prune_hard, bool) or not isinstance(prune_hard, int | float | np.floating):
            raise TypeError(f"{name}: prune_hard must be a number, got {prune_hard!r}")
        if not 0 <= prune_hard < 1 or self.percentage + prune_hard > 1 + 1e-9:
            raise ValueError(
                f"{name}: prune_hard must lie in [0, 1 - percentage], got {prune_hard} and percentage {self.percentage}"
            )
        self.score, self.clustering, self.labels, self.embeddings = score, clustering, labels, embeddings
        self.n_clusters = None if n_clusters is None else check_count("n_clusters", n_clusters)
        if self.n_clusters == 1:
            raise ValueError(f"{name}: n_clusters must be at least 2, got 1")
        self.epochs, self.prune_hard = check_count("epochs", epochs), float(prune_hard)
        self.seed, self.device = check_seed(seed), device
        self.labels_: Tensor | None = None
        self.dynamics_: Dynamics | None = None
        self.scores_: dict[str, Tensor] = {}
        self.report_: dict[str, Any] = {}

    def select_images(self, features: Features, layout: Layout, embeddings: Features | None = None) -> Tensor:
        """[J] int64 numbers of the chosen images in `layout.names`, ascending.

        Parameters
        ----------
        features : [N, D] rows; their mean by image takes the place of embeddings where there are none.
        layout : where the rows lie.
        embeddings : [I, E], of the layout's images in their order, that of their first rows; None: the constructor's.

        Raises
        ------
        ValueError : embeddings or labels of another number of images, fewer images than clusters need. Else as of
        `scores.train_proxy`.
        """
        name = type(self).__name__
        given = self.embeddings if embeddings is None else embeddings
        if given is None:
            found = image_means(Held(None, as_rows(name, features)), layout)
        else:
            found = as_rows(name, given, "embeddings")
        if found.shape[0] != layout.images:
            raise ValueError(f"{name}: embeddings of {layout.images} images are wanted, got {found.shape[0]}")
        return self.select(found)

    def _select(self, features: Tensor) -> Tensor:
        """[I, E] -> [J] ascending."""
        name, images = type(self).__name__, features.shape[0]
        self.labels_, self.dynamics_, self.scores_, self.report_ = None, None, {}, {}
        spent: dict[str, Any] = {}
        parts = Parts(spent, torch.device(self.device or features.device))
        with parts("cluster"):
            labels = self._labels(name, features)
        with parts("proxy"):
            self.dynamics_ = train_proxy(
                features, labels, epochs=self.epochs, seed=self.seed, device=self.device, progress=self._told(images)
            )
        difficulty = self.dynamics_.score(self.score)
        pruned, kept = int(images * self.prune_hard), max(1, int(images * self.percentage))
        order = difficulty.argsort(descending=True, stable=True)  # of equals the first image first
        self.labels_, self.scores_ = labels, {"difficulty": difficulty}
        self.report_ = {
            "images": images, "kept": kept, "pruned_hard": pruned, "pruned_easy": images - kept - pruned,
            "score": self.score, "labels": "given" if self.labels is not None else self.clustering,
            "classes": len(labels.unique()),
        } | spent  # fmt: skip
        return order[pruned : pruned + kept].sort().values

    def _labels(self, name: str, features: Tensor) -> Tensor:
        images = features.shape[0]
        if self.labels is not None:
            labels = torch.as_tensor(self.labels).cpu()
            if labels.is_floating_point() or labels.shape != (images,):
                raise ValueError(
                    f"{name}: labels must be {images} integers, one an image, got {labels.dtype} {tuple(labels.shape)}"
                )
            return labels.long()
        if images < _LEAST:
            raise ValueError(f"{name}: at least {_LEAST} images are wanted, got {images}")
        count = self.n_clusters or max(2, min(10, images // 8))
        if images < 2 * count:
            raise ValueError(f"{name}: {count} clusters need at least {2 * count} images, got {images}")
        if self.clustering == "heads":
            return clustering_heads(features, count, seed=self.seed, progress=self.show_progress).labels
        return k_means(features, count, seed=self.seed, device=self.device, progress=self.show_progress).labels

    def _told(self, images: int) -> Any:
        """The proxy's progress in the terms of `progress`: images kept of those to keep, as if they came evenly."""
        told, kept = self.progress, max(1, int(images * self.percentage))
        return self.show_progress if told is None else lambda done, total: told(kept * done // total, kept)
