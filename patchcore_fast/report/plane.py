"""All patches and the bank on a plane: where the picks lie in the cloud, and what pruning took from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.report.plots import NEUTRAL, new_figure, quiet, save_figure
from patchcore_fast.report.selection import POOL, end_colours, end_label, percent, picked_rows, pruned_ends, wrapped

if TYPE_CHECKING:
    import torch  # at run time inside: the doctor writes its report where torch is broken

CELLS = 150  # of the density, along the longer side
DOTS = 5_000  # picks that are drawn, evenly from first to last; more would cover each other
UMAP_ROWS = 20_000  # beyond this UMAP takes minutes and the picture says no more


class Plane(NamedTuple):
    """xy [n, 2] float32, the rows [n] that it places (ascending), and two axis labels."""

    xy: NDArray[np.float32]
    rows: NDArray[np.int64]
    labels: tuple[str, str]


def pca_plane(features: Any, *, chunk_size: int = 65536) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates [N, 2] float32 on the two principal axes, and the share of the variance that each explains [2].

    The axes are the eigenvectors of the covariance (float64, summed in chunks of rows); the sign is such that the
    largest entry of an axis is positive. With one column the second coordinate is 0.

    Raises
    ------
    TypeError : features not floating.  ValueError : not [N >= 2, D >= 1], not finite, or all rows equal.
    """
    import torch

    x = _features("pca_plane", features)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"pca_plane: chunk_size must be a positive integer, got {chunk_size!r}")
    n, dim = x.shape
    mean = sum((part.double().sum(0) for part in x.split(chunk_size)), torch.zeros(dim, dtype=torch.float64)) / n
    if not bool(torch.isfinite(mean).all()):
        raise ValueError("pca_plane: features must be finite, some are not")
    covariance = torch.zeros(dim, dim, dtype=torch.float64)
    for part in x.split(chunk_size):
        centred = part.double() - mean
        covariance += centred.T @ centred
    values, vectors = torch.linalg.eigh(covariance / (n - 1))
    total = float(values.clamp_min(0).sum())
    # Rounding leaves some variance in equal rows.
    if total <= 1e-24 * max(float(mean.square().sum()), 1e-300):
        raise ValueError("pca_plane: all rows are equal, there is no plane")
    axes = vectors.flip(1)[:, :2]
    largest = axes.abs().argmax(0)
    axes = axes * torch.where(axes.gather(0, largest[None]) < 0, -1.0, 1.0)
    xy = torch.cat([((part.double() - mean) @ axes).float() for part in x.split(chunk_size)])
    explained = values.flip(0)[:2].clamp_min(0) / total
    if dim == 1:
        xy, explained = torch.nn.functional.pad(xy, (0, 1)), torch.nn.functional.pad(explained, (0, 1))
    return xy, explained


def umap_plane(features: Any, always: Any, *, seed: int = 0, rows: int = UMAP_ROWS) -> tuple[torch.Tensor, Any]:
    """UMAP coordinates [n, 2] of at most `rows` rows, and which [n] ascending.

    Of `always` [k] the first ones take up to half of the places, the others are drawn by `seed` from all rows that are
    not in `always`. McInnes, Healy, Melville 2018, with umap-learn's own settings and a fixed random state.

    Raises
    ------
    ImportError : umap-learn is missing.  TypeError, ValueError : features as `pca_plane`.
    """
    import torch

    x = _features("umap_plane", features)
    UMAP = load_umap()
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 4:
        raise ValueError(f"umap_plane: rows must be an integer of at least 4, got {rows!r}")
    picks = picked_rows("umap_plane", always, len(x))
    first = np.unique(picks[: rows // 2])
    others = np.setdiff1d(np.arange(len(x)), picks)
    count = min(len(others), rows - len(first))
    drawn = np.random.default_rng(seed).choice(others, count, replace=False) if count else others[:0]
    shown = np.sort(np.concatenate([first, drawn]))
    if len(shown) < 4:
        raise ValueError(f"umap_plane: at least 4 rows are needed, got {len(shown)}")
    part = x[torch.from_numpy(shown)].float()
    if not bool(torch.isfinite(part).all()):
        raise ValueError("umap_plane: features must be finite, some are not")
    # One job: several would make the random state of no use.
    model = UMAP(n_components=2, n_neighbors=min(15, len(shown) - 1), random_state=seed, n_jobs=1)
    return torch.as_tensor(np.asarray(model.fit_transform(part.numpy()), dtype=np.float32)), shown


def load_umap() -> Any:
    """The UMAP class of umap-learn; ImportError says how to get it."""
    try:
        from umap import UMAP
    except ImportError as e:
        raise ImportError("the UMAP plane needs umap-learn: pip install umap-learn") from e
    return UMAP


def plot_plane(
    features: Any,
    indices: Any,
    kept: Any,
    path: str | os.PathLike[str],
    *,
    method: Literal["pca", "umap"] = "pca",
    pruned: Mapping[str, Any] | None = None,
    seed: int = 0,
    title: str = "The bank among all patches",
) -> None:
    """The density of all patches in grey, tinted where they were pruned, and the picks as dots in selection order.

    Of more than 5,000 picks that many are drawn, evenly from the first to the last.

    Parameters
    ----------
    features : [N, D] floating array or tensor.
    indices : [k] picked rows in selection order.
    kept : [N] bool, rows that selection could take, or None for all.
    path : PNG to write.
    method : "pca" (deterministic, all rows) or "umap" (`umap_plane`: the picks and a sample of the rest).
    pruned : end -> [N] bool; rows that are neither kept nor in one of them are shown as "pruned".
    seed : of UMAP and its sample.

    Raises
    ------
    ValueError, TypeError : wrong shapes or types, features that are not finite, another method.
    ImportError : umap-learn is missing.
    """
    if method not in ("pca", "umap"):
        raise ValueError(f'plot_plane: method must be "pca" or "umap", got {method!r}')
    x = _features("plot_plane", features)
    picks = picked_rows("plot_plane", indices, len(x))
    ends = pruned_ends("plot_plane", kept, pruned, len(x))
    if method == "pca":
        xy, explained = pca_plane(x)
        names = [f"{which} principal axis ({percent(float(share), 1)} of the variance)"
                 for which, share in zip(("first", "second"), explained, strict=True)]  # fmt: skip
        plane = Plane(xy.numpy(), np.arange(len(x)), (names[0], names[1]))
    else:
        xy, shown = umap_plane(x, picks, seed=seed)
        plane = Plane(xy.numpy(), shown, ("UMAP 1", "UMAP 2"))
    _draw(plane, picks, ends, len(x), path, title)


def _features(name: str, features: Any) -> torch.Tensor:
    from patchcore_fast.inputs import as_rows

    x = as_rows(name, features)
    if len(x) < 2:
        raise ValueError(f"{name}: features must have at least two rows, got shape {tuple(x.shape)}")
    return x.cpu()


def _draw(plane: Plane, picks: NDArray[Any], ends: dict[str, NDArray[np.bool_]], n: int, path: Any, title: str) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    low, high = plane.xy.min(0).astype(np.float64), plane.xy.max(0).astype(np.float64)
    span = np.maximum(high - low, 1e-3 * (high - low).max())
    # Both axes have one scale; what is far longer than wide gets empty sides, so that the page keeps a sane shape.
    spare = np.maximum(span.max() / 1.8 - span, 0) / 2 + 0.03 * span
    low, high = low - spare, high + spare
    cell = (high - low).max() / CELLS
    edges = [a + cell * np.arange(np.ceil((b - a) / cell) + 1) for a, b in zip(low, high, strict=True)]
    colours = end_colours(ends)
    picture = _density(plane, edges, ends, colours)

    ratio = len(edges[0]) / len(edges[1])
    figure = new_figure(5.4 * min(ratio, 1.4) + 1.9, 5.4 * min(ratio, 1.4) / ratio + 1.0)
    axes = figure.add_subplot()
    quiet(axes)
    extent = (edges[0][0], edges[0][-1], edges[1][0], edges[1][-1])
    axes.imshow(picture, origin="lower", extent=extent, interpolation="nearest", aspect="equal", zorder=1.5)
    order = ListedColormap(colormaps["viridis"](np.linspace(0, 0.92, 256)))
    turns = np.flatnonzero(np.isin(picks, plane.rows))  # all of them, but for UMAP of a large bank
    if len(turns) > DOTS:
        turns = turns[np.linspace(0, len(turns) - 1, DOTS).round().astype(int)]
    dots = plane.xy[np.searchsorted(plane.rows, picks[turns])]
    size = float(np.clip(12000 / len(turns), 4, 26))
    # The first picks are few and say most: they are drawn last.
    shown = axes.scatter(dots[::-1, 0], dots[::-1, 1], c=turns[::-1] + 1, cmap=order, s=size, vmin=1, vmax=len(picks),
                         edgecolors="white", linewidths=size / 40, zorder=2.5)  # fmt: skip
    axes.set(xlabel=plane.labels[0], ylabel=plane.labels[1], xlim=extent[:2], ylim=extent[2:])
    axes.set_title(wrapped(title, figure.get_size_inches()[0] - 0.9), loc="left", fontsize=12)
    part = f"all {n:,}" if len(plane.rows) == n else f"{len(plane.rows):,} of {n:,}"
    handles = [Patch(color="#8d959b", label=f"{part} patches")]
    for end, mask in ends.items():
        handles.append(Patch(color=colours[end], label=f"{end_label(end)}: {percent(mask.sum(), n)}"))
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="best")
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, aspect=28, pad=0.02)
    some = "" if len(turns) == len(picks) else f" ({len(turns):,} drawn)"
    bar.set_label(f"order of selection, 1 to {len(picks):,}{some}", fontsize=9)
    bar.ax.tick_params(labelsize=8.5, color=NEUTRAL)
    bar.outline.set_visible(False)
    save_figure(figure, path)


def _density(
    plane: Plane, edges: list[NDArray[Any]], ends: dict[str, NDArray[np.bool_]], colours: dict[str, str]
) -> NDArray[np.float64]:
    """[rows, columns, 4]: grey by the log of the count, blended towards an end's colour by its share of the cell."""
    from matplotlib.colors import to_rgb

    def counts(xy: NDArray[Any]) -> NDArray[np.float64]:
        return np.histogram2d(xy[:, 1], xy[:, 0], bins=(edges[1], edges[0]))[0]

    every = counts(plane.xy)
    level = np.log1p(every) / np.log1p(every.max())
    full = 0.86 - 0.5 * level  # from pale to middle grey: dots of any colour stay visible on it
    picture = np.repeat(full[..., None], 4, axis=2)
    for end, mask in ends.items():
        share = counts(plane.xy[mask[plane.rows]]) / np.maximum(every, 1)
        if end == POOL:  # few rows among many: what they cover counts, not how dense they are
            share = np.where(share > 0, 0.35 + 0.65 * share, 0)
        tint = np.asarray(to_rgb(colours[end])) + (1 - np.asarray(to_rgb(colours[end]))) * 0.55 * (1 - level[..., None])
        blend = 0.9 * share[..., None]
        picture[..., :3] = picture[..., :3] * (1 - blend) + tint * blend
    picture[..., 3] = every > 0
    return picture
