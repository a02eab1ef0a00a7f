"""The steps between a store and a selection, each from files to a file: clusters, dynamics, scores (docs/chain.md)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchcore_fast.chain import ChainFile, read_chain
from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.model.stored import StoredRows
from patchcore_fast.npy import Array
from patchcore_fast.progress import Progress
from patchcore_fast.scores import Dynamics, clustering_heads, k_means, train_proxy

LEVELS, METHODS = ("image", "patch"), ("kmeans", "heads")
KEPT = ("loss", "confidence", "margin", "error", "correct")  # of dynamics, in their file


def per_image(store: FeatureStore) -> int:
    """Grids of each image: its own and those of its copies."""
    return len(store.grids) // len(store.images)


def image_of(store: FeatureStore) -> torch.Tensor:
    """[N] int64: the image that each row is of; rows of a copy are its image's."""
    sizes = torch.tensor([h * w for h, w in store.grids])
    return torch.repeat_interleave(torch.arange(len(sizes)) // per_image(store), sizes)


def embeddings(store: FeatureStore) -> tuple[Array, str]:
    """[I, E] float32, and what they are: the network's of each image, or in a store without these its mean patch."""
    count = len(store.images)
    if store.about.get("embedding") is not None:  # an earlier version wrote none
        found = store.embeddings
        return np.ascontiguousarray(found.reshape(count, -1, found.shape[1])[:, 0], np.float32), "of the network"
    total, image = np.zeros((count, store.shape[1])), 0
    ends = np.cumsum([h * w for h, w in store.grids])[per_image(store) - 1 :: per_image(store)].tolist()
    for image, (low, high) in enumerate(pairwise([0, *ends])):
        total[image] = store.rows(low, high).mean(0, dtype=np.float64)
    return total.astype(np.float32), "mean patches"


def looked_at(store: FeatureStore, level: str) -> tuple[torch.Tensor, str]:
    """What a step looks at, and its name: embeddings [I, E], or rows [N, D], in a file where memory is short."""
    if level == "image":
        found, what = embeddings(store)
        return torch.from_numpy(found), what
    return StoredRows(store).features, "patches"


def cluster_store(
    store: FeatureStore,
    *,
    level: str = "image",
    method: str = "kmeans",
    clusters: int = 10,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = None,
) -> ChainFile:
    """Pseudo-labels of images (by their global embeddings) or of patches.

    Parameters
    ----------
    level : "image" or "patch".
    method : "kmeans" (`scores.k_means`), or of images "heads" (`scores.clustering_heads`).
    clusters : at most as many as there are images or patches.

    Returns
    -------
    "labels" [I] or [N] int64; of k-means also "centers" [C, D] and "distances" to them [I] or [N], of heads
    "probabilities" [I, C], float32.

    Raises
    ------
    ValueError : an argument that is wrong.  DataError : a store without embeddings, or one that was changed.
    """
    if level not in LEVELS or method not in METHODS:
        raise ValueError(f"cluster_store: level must be one of {LEVELS} and method of {METHODS}, got {level}, {method}")
    if method == "heads" and level != "image":
        raise ValueError("cluster_store: heads are trained on embeddings of images; patches go by kmeans")
    rows, what = looked_at(store, level)
    count = min(clusters, len(rows))
    settings = {"level": level, "of": what, "method": method, "clusters": count, "seed": seed}
    if method == "heads":
        heads = clustering_heads(rows, count, seed=seed, progress=progress)
        arrays = {"labels": heads.labels, "probabilities": heads.probabilities}
    else:
        found = k_means(rows, count, seed=seed, device=device, progress=progress)
        arrays = {"labels": found.labels, "centers": found.centers, "distances": found.distances}
    return ChainFile.of("clusters", store, settings, {name: values.numpy() for name, values in arrays.items()})


def labelled(store: FeatureStore, labels: Array, classes: Sequence[str] = (), level: str | None = None) -> ChainFile:
    """Labels that were given, as the file that `cluster_store` makes.

    labels : [I] or [N] integers >= 0.  classes : what each of them is called.  level : that they must be of.

    Raises
    ------
    DataError : neither one for each image nor one for each patch, or of another level.
    """
    sizes = {"image": len(store.images), "patch": store.shape[0]}
    found = next((name for name, size in sizes.items() if labels.shape == (size,)), None)
    if found is None or labels.dtype.kind not in "iu" or (labels < 0).any() or level not in (None, found):
        want = " or ".join(f"{n:,} ({name})" for name, n in sizes.items() if level in (None, name))
        raise DataError(f"labels: {want} integers >= 0 are wanted, got {labels.dtype} of shape {labels.shape}")
    settings = {"level": found, "method": "given", "clusters": len(np.unique(labels)), "classes": list(classes)}
    return ChainFile.of("clusters", store, settings, {"labels": labels.astype(np.int64)})


def labels_of(file: ChainFile, store: FeatureStore, path: str | os.PathLike[str]) -> tuple[str, Array]:
    """Level and labels of a file of clusters. DataError: they are not of this store's images or rows."""
    level = file.settings.get("level")
    if level not in LEVELS:
        raise DataError(f"{os.fspath(path)}: does not say whether its labels are of images or of patches")
    count = len(store.images) if level == "image" else store.shape[0]
    return level, file.array("labels", "int64", (count,), path)


def train_store(
    store: FeatureStore,
    clusters: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    epochs: int = 10,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress = None,
) -> tuple[ChainFile, Dynamics]:
    """Train a proxy on the labels of a file, and write what it thinks of each image or patch in each epoch.

    After each epoch what is needed to go on is written to OUTPUT.training. A call that finds it goes on from there, and
    ends with the same file, bit for bit (on one device and number of threads). It is removed at the end.

    Returns
    -------
    "loss", "confidence", "margin", "error" [T, N] float32 and "correct" [T, N] uint8, N images or patches; and the same
    with its scores.

    Raises
    ------
    DataError : clusters of another store, or damaged; OUTPUT.training of other clusters or options.
    """
    given = read_chain(clusters, "clusters", store)
    level, labels = labels_of(given, store, clusters)
    settings = {"level": level, "epochs": epochs, "seed": seed, "clusters": given.digest}
    kept = training_file(output)
    state = _state(kept, store, settings)

    def keep(now: dict[str, torch.Tensor]) -> None:
        if int(now["epoch"]) < epochs:
            arrays = {name: (v.byte() if v.dtype == torch.bool else v).numpy() for name, v in now.items()}
            ChainFile.of("training", store, settings, arrays).save(kept)

    try:
        found = train_proxy(looked_at(store, level)[0], torch.from_numpy(labels), epochs=epochs, seed=seed, state=state,
                            on_epoch=keep, device=device, progress=progress)  # fmt: skip
    except ValueError as error:
        raise error if state is None else DataError(f"{kept}: {error}: remove it to begin anew") from error
    trajectories = {name: getattr(found, name) for name in KEPT}
    arrays = {name: (v.byte() if v.dtype == torch.bool else v).numpy() for name, v in trajectories.items()}
    made = ChainFile.of("dynamics", store, settings, arrays)
    made.save(output)
    kept.unlink(missing_ok=True)
    return made, found


def training_file(output: str | os.PathLike[str]) -> Path:
    """Where `train_store` keeps what it goes on from."""
    return Path(f"{os.fspath(output)}.training")


def _state(path: Path, store: FeatureStore, settings: dict[str, Any]) -> dict[str, torch.Tensor] | None:
    if not path.exists():
        return None
    file = read_chain(path, "training", store)
    if other := [n for n, value in settings.items() if n != "epochs" and file.settings.get(n) != value]:
        told = ", ".join(f"{name} {file.settings.get(name)!r} there and {settings[name]!r} here" for name in other)
        raise DataError(f"{path}: is of another training ({told}): remove it to begin anew")
    found = {name: torch.from_numpy(values.copy()) for name, values in file.arrays.items()}
    return found | {"correct": found["correct"].bool()} if "correct" in found else found


def dynamics_of(file: ChainFile, store: FeatureStore, path: str | os.PathLike[str]) -> tuple[str, Dynamics]:
    """Level and dynamics of a file. DataError: it does not hold them, or of other images or rows."""
    level = file.settings.get("level")
    if level not in LEVELS:
        raise DataError(f"{os.fspath(path)}: does not say whether it is of images or of patches")
    count = len(store.images) if level == "image" else store.shape[0]
    kinds = {name: "uint8" if name == "correct" else "float32" for name in KEPT}
    arrays = {name: torch.from_numpy(file.array(name, kind, (-1, count), path)) for name, kind in kinds.items()}
    if len({len(values) for values in arrays.values()}) != 1 or not len(arrays["loss"]):
        raise DataError(f"{os.fspath(path)}: its trajectories are not of as many epochs")
    return level, Dynamics(**(arrays | {"correct": arrays["correct"].bool()}))
