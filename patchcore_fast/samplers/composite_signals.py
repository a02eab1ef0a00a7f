"""The three signals of the composite preset, and how they become one number a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..inputs import as_rows
from ..kernels.checks import check_rows
from ..scores import Layout, difficulty, instability, k_means, noise_instability, proxy_change, rarity
from ..scores.density import inverse
from ..scores.rows import CHUNK_SIZE, distances, moments, read_rows
from .composite_options import CompositeOptions
from .projection import project


def distance_to_centre(x: Tensor, options: CompositeOptions, **common: Any) -> Tensor:
    """Representativeness as the composite has it: the distance to the mean of all rows, or to the nearest of n_clusters
    k-means centres. [N, D] -> [N] float32."""
    if options.repr == "clusters":
        return k_means(x, min(options.n_clusters, x.shape[0]), **common).distances
    rows = read_rows("distance_to_centre", x, common["device"], CHUNK_SIZE)
    mean, _ = moments(rows)
    return torch.cat([distances(chunk, mean).float().cpu() for _, chunk in rows.chunks()])


def density(x: Tensor, options: CompositeOptions, **common: Any) -> Tensor:
    """Mean distance to the k nearest of random anchors, or one over that ("dense"). [N, D] -> [N] float32.

    Rows among their like, at distance 0, are as dense as the densest of the others.
    """
    if x.shape[0] < 2:
        return torch.zeros(x.shape[0])
    k = min(options.k_density, min(options.density_subsample, x.shape[0]) - 1)
    found = rarity(x, k=k, anchors=options.density_subsample, **common)
    return inverse(found) if options.density == "dense" else found


def third(
    x: Tensor,  # [N, d], projected
    options: CompositeOptions,
    views: Any,
    matrix: Tensor | None,  # of the projection
    labels: Tensor | None,  # [N]
    **common: Any,
) -> Tensor:
    """Instability or difficulty, [N] float32; common is seed, device and progress."""
    if options.instability == "noise":
        return noise_instability(
            x, options.noise_std, options.noise_T, common["seed"], chunk_size=options.batch_size_instability,
            progress=common["progress"],
        )  # fmt: skip
    if options.instability == "views":
        common.pop("seed")
        return _to_views(x, views, matrix, **common)
    if x.shape[0] < 2 or (labels is None and bool((x == x[0]).all())):  # nothing to tell apart
        return torch.zeros(x.shape[0])
    common |= {"labels": labels, "clusters": max(2, options.n_clusters)}
    if options.instability == "proxy":
        return proxy_change(x, steps=options.proxy_steps, **common)
    found = difficulty(x, epochs=options.epochs, **common)
    signals = {"aum": found.score, "forgetting": found.forgetting, "el2n": found.el2n}
    if len(options.measures) == 1:
        return signals[options.measures[0]]
    return (sum(normalised(signals[m]) for m in options.measures) / len(options.measures)).float()  # type: ignore[union-attr]


def _to_views(x: Tensor, views: Any, matrix: Tensor | None, **common: Any) -> Tensor:
    if matrix is None:
        return instability(x, views, **common)
    one = hasattr(views, "ndim") and views.ndim == 2
    total, count = torch.zeros(x.shape[0], dtype=torch.float64), 0
    for view in [views] if one else views:  # one at a time is projected, as the rows are
        rows = as_rows("instability", view, f"views[{count}]")
        if rows.shape != (x.shape[0], matrix.shape[0]):
            want = (x.shape[0], matrix.shape[0])
            raise ValueError(
                f"instability: views[{count}] must have the shape of features {want}, got {tuple(rows.shape)}"
            )
        total += instability(x, project(rows, matrix, x.device), **common).double()
        count += 1
    if not count:
        raise ValueError("instability: views must hold at least one view, got none")
    return (total / count).float()


def row_labels(
    name: str, features: Tensor, layout: Layout | None, pseudo_labels: Any, image_embeddings: Any, clusters: int,
    **common: Any,
) -> Tensor | None:  # fmt: skip
    """Class of each row [N] int64, from classes of rows [N] or of images [I], or from embeddings [I, E] to cluster.

    Classes of images go to all their patches. Images are numbered as in image_ids or positions; where neither is given
    and the order of the rows shows no images, all are taken to have equally many rows, one after the other.
    """
    n = features.shape[0]
    if pseudo_labels is not None:
        if image_embeddings is not None:
            raise ValueError(f"{name}: pseudo_labels or image_embeddings, not both")
        labels = check_rows(name, "pseudo_labels", pseudo_labels, 2**63 - 1, torch.device("cpu"))
        return labels if labels.shape[0] == n else labels[_images(name, features, layout, labels.shape[0])]
    if image_embeddings is None:
        return None
    rows = as_rows(name, image_embeddings, "image_embeddings")
    images = _images(name, features, layout, rows.shape[0])
    return k_means(rows, min(clusters, rows.shape[0]), **common).labels[images]


def _images(name: str, features: Tensor, layout: Layout | None, count: int) -> Tensor:
    """Of each row the image, [N] in 0..count-1."""
    n = features.shape[0]
    layout = layout or Layout.inferred(features)
    if layout is None or (layout.source == "inferred" and layout.images != count):
        if count < 1 or n % count:
            raise ValueError(
                f"{name}: {count} images do not divide {n} rows, and which row is whose is not known: pass image_ids "
                f"or positions, or one label a row"
            )
        return torch.arange(n) // (n // count)
    if int(layout.names.min()) >= 0 and int(layout.names.max()) < count:
        return layout.names[layout.image]
    if layout.images == count:
        return layout.names.argsort().argsort()[layout.image]  # in the order of their numbers
    raise ValueError(f"{name}: labels or embeddings are of {count} images, the rows of {layout.images}")


def normalised(signal: Tensor) -> Tensor:
    """(s - min) / (max - min) over the finite values, [N] float64; 0 where all are equal, and for the others."""
    value = signal.double()
    finite = value.isfinite()
    if not bool(finite.any()):
        return torch.zeros_like(value)
    low, high = value[finite].min(), value[finite].max()
    if not bool(high > low):
        return torch.zeros_like(value)
    return torch.where(finite, (value - low) / (high - low), 0.0)
