"""Synthetic surface defects: shapes grown at random, shaded as if lit from the upper left, blended softly.

Every function takes a grey tile in [0, 1] and a generator and returns the changed tile; nothing outside the defect
moves. Brightness is balanced on purpose (bright beside dark, as many light stains as dark ones, foreign material
matched in mean and contrast), so that a detector cannot win by looking at the mean of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Tile = NDArray[np.float64]  # [S, S] grey values in [0, 1]
DefectMaker = Callable[[Tile, np.random.Generator, Tile, int], Tile]

MASK_THRESHOLD = 4 / 255  # a change below this is not visible and is not called a defect


def _blob(rng: np.random.Generator, size: int, radius: float, roughness: float = 0.45, edge: float = 2.0) -> Tile:
    """Soft coverage in [0, 1] of one irregular region of about `radius` pixels, away from the border."""
    margin = radius * 1.3
    cy, cx = rng.uniform(margin, size - margin, 2)
    y, x = np.mgrid[:size, :size]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size)), radius / 4, mode="wrap")
    inside = radius * (1 + roughness * noise / noise.std() / 2.5) - np.hypot(u * stretch, v / stretch)
    parts, _ = ndimage.label(inside > 0)
    # Noise may throw off islands: one defect is one region, the largest.
    main = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return np.clip(ndimage.gaussian_filter(main.astype(float), edge) * 1.6 - 0.3, 0, 1)


def _curve(rng: np.random.Generator, size: int, length: float, bend: float) -> NDArray[np.float64]:
    """[P, 2] points (y, x), under a pixel apart, of a gently bending line that stays inside the tile."""
    steps = int(length / 0.5)
    for _ in range(64):
        turn = np.cumsum(ndimage.gaussian_filter1d(rng.standard_normal(steps), steps / 6)) * bend
        heading = rng.uniform(0, 2 * np.pi) + turn
        line = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1), 0) * 0.5
        line += rng.uniform(0.12, 0.88, 2) * size - line[steps // 2]
        if line.min() > 0.05 * size and line.max() < 0.95 * size:
            break
    return np.clip(line, 0.04 * size, 0.96 * size)


def _line_profile(line: NDArray[np.float64], size: int) -> tuple[Tile, Tile, Tile]:
    """Per pixel: distance to the line, signed offset towards the light (upper left), position along it in [0, 1]."""
    pixels = np.moveaxis(np.mgrid[:size, :size], 0, -1).astype(float)
    distance, nearest = cKDTree(line).query(pixels)
    away = pixels - line[nearest]
    return distance, -away.sum(-1) / np.sqrt(2), nearest / max(len(line) - 1, 1)


def scratch(tile: Tile, rng: np.random.Generator, donor: Tile, index: int) -> Tile:
    """A dark groove with a bright burr on the far side, fading in and out along its length."""
    size = len(tile)
    distance, offset, along = _line_profile(_curve(rng, size, rng.uniform(0.55, 0.85) * size, 0.05), size)
    width = rng.uniform(1.3, 2.0)
    fade = np.clip(np.minimum(along, 1 - along) * 6, 0, 1)
    groove = np.exp(-((distance / width) ** 2))
    burr = np.exp(-(((offset + 1.6 * width) ** 2 + (distance - 1.6 * width) ** 2) / width**2))
    return tile + fade * rng.uniform(0.7, 1.0) * (0.28 * burr - 0.22 * groove)


def wire(tile: Tile, rng: np.random.Generator, donor: Tile, index: int) -> Tile:
    """A thin thread lying on the surface: a round, lit body that hides the texture, and its soft shadow."""
    size = len(tile)
    line = _curve(rng, size, rng.uniform(0.6, 0.9) * size, 0.12)
    distance, offset, _ = _line_profile(line, size)
    width = rng.uniform(1.8, 2.6)
    body = np.clip(width + 0.5 - distance, 0, 1)
    shadow = np.clip(1.6 * width - _line_profile(line + 1.3 * width, size)[0], 0, 1)
    shadow = ndimage.gaussian_filter(shadow, 1.2) * (1 - body)
    tone = np.median(tile) + 0.06 * (-1) ** index + 0.22 * np.clip(offset / width, -1, 1)
    return tile * (1 - 0.5 * shadow) * (1 - body) + body * tone


def crack(tile: Tile, rng: np.random.Generator, donor: Tile, index: int) -> Tile:
    """A jagged random walk with side branches: dark inside, a thin bright lip on the side that faces the light."""
    size = len(tile)
    depth = np.zeros((size, size))
    start = rng.uniform(0.12, 0.3, 2) * size
    flip = rng.integers(0, 2, 2).astype(bool)
    start = np.where(flip, size - start, start)
    heading = np.arctan2(size / 2 - start[0], size / 2 - start[1]) + rng.uniform(-0.4, 0.4)
    walks = [(start, heading, rng.uniform(0.65, 0.9) * size, rng.uniform(1.4, 2.0))]
    while walks:
        (y, x), heading, length, width = walks.pop()
        course = heading
        for step in range(int(length)):
            if step % 4 == 0:
                course = heading + rng.normal(0, 0.55)
            y, x = y + np.sin(course), x + np.cos(course)
            if not (3 < y < size - 4 and 3 < x < size - 4):
                break
            taper = width * (1 - step / length) ** 0.6 * rng.uniform(0.85, 1.15)
            y0, x0 = int(y) - 3, int(x) - 3
            yy, xx = np.mgrid[y0 : y0 + 7, x0 : x0 + 7]
            cut = np.clip(taper + 0.4 - np.hypot(yy - y, xx - x), 0, 1)
            depth[y0 : y0 + 7, x0 : x0 + 7] = np.maximum(depth[y0 : y0 + 7, x0 : x0 + 7], cut)
            if width > 1.2 and rng.random() < 3.0 / size:
                side = heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.0)
                walks.append((np.array([y, x]), side, length * rng.uniform(0.25, 0.45), width * 0.6))
    depth = ndimage.gaussian_filter(depth, 0.5)
    lip = np.clip(ndimage.shift(depth, (1.5, 1.5), order=1) - depth, 0, 1)
    return tile * (1 - 0.5 * depth) + 0.14 * lip


def stain(tile: Tile, rng: np.random.Generator, donor: Tile, index: int) -> Tile:
    """A dried puddle: flattened contrast, a marked rim; light and dark ones in turn."""
    size = len(tile)
    cover = _blob(rng, size, rng.uniform(0.14, 0.2) * size, 0.6, edge=1.5)
    rim = cover - ndimage.gaussian_filter(cover, size / 40)
    sign = (-1) ** index
    strength = np.clip(float(tile.std()) / 0.10, 1.0, 1.8)  # a busy texture hides a weak tint
    flat = ndimage.gaussian_filter(tile, size / 24)
    mottled = 1 + 0.25 * ndimage.gaussian_filter(rng.standard_normal(tile.shape), size / 24) * size / 24
    tint = sign * strength * (0.09 * cover * mottled + 0.14 * np.clip(rim, 0, 1))
    return tile + cover * 0.5 * (flat - tile) + tint


def foreign(tile: Tile, rng: np.random.Generator, donor: Tile, index: int) -> Tile:
    """A piece of another material set into the surface, matched in mean and contrast, soft at the edge."""
    size = len(tile)
    cover = _blob(rng, size, rng.uniform(0.16, 0.21) * size, 0.4, edge=1.5)
    inside = cover > 0.5
    contrast = min(float(tile.std() / max(donor.std(), 1e-3)), 1.5)  # of whole tiles: a flat spot has none
    patch = tile[inside].mean() + (donor - donor[inside].mean()) * contrast
    edge = cover * (1 - ndimage.shift(cover, (2.0, 2.0), order=1))
    return tile * (1 - cover) + cover * patch - 0.10 * edge


def dent(tile: Tile, rng: np.random.Generator, donor: Tile, index: int) -> Tile:
    """Missing material: the texture is worn off inside a pit whose walls catch light and shadow."""
    size = len(tile)
    radius = rng.uniform(0.14, 0.19) * size
    cover = _blob(rng, size, radius, 0.35, edge=1.2)
    height = -ndimage.gaussian_filter(cover, radius / 5)
    slope = ndimage.sobel(height, 0) + ndimage.sobel(height, 1)
    shade = slope / np.abs(slope).max()
    rough = ndimage.gaussian_filter(rng.standard_normal(tile.shape), 1.5) * 0.10
    floor = ndimage.gaussian_filter(tile, size / 24) * 0.92 + rough
    reach = np.clip(cover * 3, 0, 1)
    return tile * (1 - cover) + cover * floor + 0.18 * shade * reach


MAKERS: dict[str, DefectMaker] = {f.__name__: f for f in (scratch, wire, crack, stain, foreign, dent)}
REGIONS = ("stain", "foreign", "dent")


def make_defect(kind: str, tile: Tile, donor: Tile, index: int, rng: Any) -> tuple[Tile, NDArray[np.bool_]]:
    """Put one defect into a tile.

    Parameters
    ----------
    kind : a key of `MAKERS`.
    tile, donor : [S, S] float64 in [0, 1]; `donor` is another material, for "foreign".
    index : running number; light and dark variants alternate with it.
    rng : seed or `numpy.random.Generator`; equal seeds give equal defects.

    Returns
    -------
    image [S, S] float64 in [0, 1], mask [S, S] bool: the pixels changed by more than `MASK_THRESHOLD`, and those
    enclosed by them that happen to match.

    Raises
    ------
    ValueError : unknown kind.
    """
    if kind not in MAKERS:
        raise ValueError(f"make_defect: kind must be one of {', '.join(MAKERS)}, got {kind!r}")
    image = np.clip(MAKERS[kind](tile, np.random.default_rng(rng), donor, index), 0, 1)
    changed = np.abs(image - tile) > MASK_THRESHOLD
    image = np.where(changed, image, tile)  # the mask says all there is
    changed |= ndimage.binary_closing(changed)  # a bright flank meets a dark one in a line of no change
    if kind in REGIONS:
        changed |= ndimage.binary_fill_holes(ndimage.binary_closing(changed, iterations=2))
    return image, changed
