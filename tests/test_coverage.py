"""Where picks lie: coverage of the grid, and the share near the border of their image, against plain loops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.coverage import border_share, border_shares, spatial_coverage

GRID, IMAGES = (5, 6), 20
GRIDS = [(4, 5), (6, 3), (4, 5), (2, 7)]
CELLS = [(i, r, c) for i, (h, w) in enumerate(GRIDS) for r in range(h) for c in range(w)]


def loop(cells: list[tuple[int, int, int]], margin: int) -> float:
    near = 0
    for image, r, c in cells:
        h, w = GRIDS[image]
        near += r < margin or c < margin or r >= h - margin or c >= w - margin
    return near / len(cells)


@pytest.mark.parametrize("margin", [0, 1, 2, 9])
def test_equals_a_plain_loop(margin: int) -> None:
    picks = np.random.default_rng(margin).permutation(len(CELLS))[:23]
    cells = [CELLS[i] for i in picks]
    wanted = loop(cells, margin)
    for grids in (GRIDS, SimpleNamespace(grids=GRIDS), np.asarray(GRIDS)):
        for indices in (picks, torch.from_numpy(picks), picks.tolist(), np.asarray(cells), torch.tensor(cells).int()):
            assert border_share(grids, indices, margin) == pytest.approx(wanted)
    assert border_share(GRIDS, None, margin) == pytest.approx(loop(CELLS, margin))
    both = border_shares(GRIDS, picks, margin)
    assert (both.picked, both.rows, both.margin) == (border_share(GRIDS, picks, margin),
                                                     border_share(GRIDS, None, margin), margin)  # fmt: skip


def test_ratio_is_one_for_all_rows_and_says_how_often_the_border_is_picked() -> None:
    assert border_shares(GRIDS, range(len(CELLS))).ratio == pytest.approx(1)
    assert border_shares(GRIDS, [0], 0).ratio == 1, "nothing is within 0 patches: nothing is expected there"
    found = border_shares([(10, 10)], [0, 9, 55, 99])  # three corners and the middle
    assert found.to_dict() == {"picked": 0.75, "rows": pytest.approx(0.36), "margin": 1,
                               "ratio": pytest.approx(0.75 / 0.36)}  # fmt: skip


BAD: dict[str, tuple[Any, Any, Any, type[Exception], str]] = {
    "no-grids": ([], [0], 1, ValueError, "at least one"),
    "grid": ([(4, 0)], [0], 1, ValueError, "two positive integers"),
    "one-grid": ((4, 5), [0], 1, ValueError, "two positive integers"),
    "float": (GRIDS, [0.5], 1, TypeError, "must be integers, got torch.float32"),
    "bool": (GRIDS, torch.ones(66, dtype=torch.bool), 1, TypeError, "must be integers, got torch.bool"),
    "none": (GRIDS, torch.empty(0, dtype=torch.int64), 1, ValueError, "at least one row"),
    "beyond": (GRIDS, [66, 92], 1, ValueError, r"must lie in \[0, 72\), got 66 to 92"),
    "negative": (GRIDS, [-1], 1, ValueError, "got -1 to -1"),
    "shape": (GRIDS, torch.zeros(2, 2, 3, dtype=torch.int64), 1, ValueError, "shape"),
    "columns": (GRIDS, [[0, 1]], 1, ValueError, "shape"),
    "image": (GRIDS, [[4, 0, 0]], 1, ValueError, "image must"),
    "other-grid": (GRIDS, [[1, 0, 4]], 1, ValueError, "their own image's grid"),
    "margin": (GRIDS, [0], -1, ValueError, "at least 0, got -1"),
    "margin-float": (GRIDS, [0], 1.5, ValueError, "at least 0, got 1.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    grids, indices, margin, error, message = BAD[name]
    with pytest.raises(error, match=message):
        border_share(grids, indices, margin)


@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray, list])
def test_coverage_equals_a_plain_loop(kind: type) -> None:
    p = torch.from_numpy(np.random.default_rng(0).integers(0, (IMAGES, *GRID), (70, 3))).int()
    given: Any = p if kind is torch.Tensor else p.numpy() if kind is np.ndarray else p.tolist()
    found = spatial_coverage(given, IMAGES, GRID)
    counts, per_image = [[0] * GRID[1] for _ in range(GRID[0])], [0] * IMAGES
    for image, row, column in p.tolist():
        counts[row][column] += 1
        per_image[image] += 1
    assert found.counts.tolist() == counts and found.per_image.tolist() == per_image and found.patches == 70
    flat = [c / 70 for line in counts for c in line if c]
    assert found.share == pytest.approx(len(flat) / 30)
    assert found.entropy == pytest.approx(-sum(c * math.log(c) for c in flat) / math.log(30))
    assert found.effective_images == pytest.approx(math.exp(-sum(c / 70 * math.log(c / 70) for c in per_image if c)))
    assert found.empty_images == per_image.count(0)
    assert found.to_dict()["counts"] == counts and found.to_dict()["grid"] == list(GRID)


def test_coverage_of_an_even_bank_is_one_and_of_a_single_place_zero() -> None:
    every = torch.cartesian_prod(torch.arange(IMAGES), torch.arange(5), torch.arange(6))
    even = spatial_coverage(every, IMAGES, GRID)
    assert even.share == 1 and even.entropy == pytest.approx(1) and even.empty_images == 0
    assert even.effective_images == pytest.approx(IMAGES)
    one = spatial_coverage([[3, 2, 1]] * 9, IMAGES, GRID)
    assert (one.share, one.entropy, one.effective_images, one.empty_images) == (1 / 30, 0, 1, IMAGES - 1)
    assert spatial_coverage([[0, 0, 0]], 1, (1, 1)).entropy == 1


@pytest.mark.parametrize(
    ("positions", "images", "grid", "words"),
    [
        (torch.zeros(3, 2, dtype=torch.int32), 4, GRID, r"\[M, 3\].*got shape \(3, 2\)"),
        (torch.zeros(0, 3, dtype=torch.int32), 4, GRID, "at least one row"),
        (torch.zeros(3, 3), 4, GRID, "integers"),
        ([[4, 0, 0]], 4, GRID, r"image must lie in \[0, 4\), got 4 to 4"),
        ([[0, 5, 0]], 4, GRID, r"row must lie in \[0, 5\)"),
        ([[0, 0, -1]], 4, GRID, r"column must lie in \[0, 6\), got -1"),
        ([[0, 0, 0]], 0, GRID, "images must be a positive integer, got 0"),
        ([[0, 0, 0]], 4, (5, 0), r"grid must be two positive integers"),
        ([[0, 0, 0]], 4, 5, r"grid must be two positive integers"),
    ],
    ids=["shape", "empty", "float", "image", "row", "column", "no-images", "flat-grid", "no-grid"],
)
def test_coverage_refuses(positions: Any, images: int, grid: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        spatial_coverage(positions, images, grid)
