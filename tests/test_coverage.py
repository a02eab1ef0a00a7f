"""Share of picks near the border of their image, against a plain loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.coverage import border_share, border_shares

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
