"""Mutual scores against the formulas of docs/zeroshot.md, written out in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.zeroshot import ZeroShot, mutual
from patchcore_fast.zeroshot.mutual import counted_images, mutual_scores, neighbourhood_rows, searches

from ..evaluated import tiny_config


def plain_rows(maps: torch.Tensor, degree: int) -> np.ndarray:
    """Layer normalisation, zero-padded mean over the neighbourhood, unit length: value by value."""
    x = maps.double().numpy()
    count, channels, height, width = x.shape
    out, reach = np.zeros((count, height * width, channels)), degree // 2
    for n in range(count):
        own = (x[n] - x[n].mean()) / math.sqrt(x[n].var() + 1e-5)
        for row in range(height):
            for column in range(width):
                total = np.zeros(channels)
                for i in range(row - reach, row + reach + 1):
                    for j in range(column - reach, column + reach + 1):
                        if 0 <= i < height and 0 <= j < width:
                            total += own[:, i, j]
                mean = total / degree**2
                out[n, row * width + column] = mean / max(np.linalg.norm(mean), 1e-12)
    return out


def plain_scores(rows: np.ndarray, share: float) -> np.ndarray:
    """Of each patch of each image: distances to all patches of each other image, the least of each, the lowest few."""
    count = len(rows)
    scores = np.zeros(rows.shape[:2])
    for i in range(count):
        near = [np.linalg.norm(rows[i][:, None] - rows[j], axis=2).min(1) for j in range(count) if j != i]
        scores[i] = np.sort(near, axis=0)[: max(1, int((count - 1) * share))].mean(0)
    return scores


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(7, 5, 4, 3, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_rows_are_those_of_the_formula(maps: torch.Tensor, degree: int) -> None:
    rows = neighbourhood_rows(maps, degree)
    assert rows.dtype == torch.float32 and rows.shape == (7, 12, 5)
    np.testing.assert_allclose(rows.numpy(), plain_rows(maps, degree), atol=2e-6)
    np.testing.assert_allclose(rows.norm(dim=2).numpy(), 1, atol=1e-6)


def test_rows_come_in_parts_and_of_half_maps(maps: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = neighbourhood_rows(maps, 3)
    monkeypatch.setattr(mutual, "_EMBED_BYTES", 4 * 5 * 12 * 2)
    assert torch.equal(neighbourhood_rows(maps, 3), whole)
    half = neighbourhood_rows(maps.half(), 3)
    assert half.dtype == torch.float32 and torch.allclose(half, whole, atol=2e-3)
    assert not neighbourhood_rows(torch.ones(2, 3, 2, 2), 1).any()  # a flat map has no direction


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
def test_scores_are_those_of_the_formula(maps: torch.Tensor, share: float) -> None:
    rows = neighbourhood_rows(maps, 3)
    np.testing.assert_allclose(
        mutual_scores(rows, share).numpy(), plain_scores(rows.double().numpy(), share), atol=1e-6
    )


def test_scores_do_not_depend_on_the_parts(maps: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, seen = neighbourhood_rows(maps, 1), list[tuple[int, int]]()
    whole = mutual_scores(rows, progress=lambda *done: seen.append(done))
    assert seen == [(i + 1, 7) for i in range(7)] and searches(7, 12, 5) == 7
    monkeypatch.setattr(mutual, "_STATE_BYTES", 4 * 12 * 7 * 2)  # two images at a time
    seen.clear()
    assert torch.equal(mutual_scores(rows, progress=lambda *done: seen.append(done)), whole)
    assert seen[-1] == (28, 28) and searches(7, 12, 5) == 28


def test_rows_go_to_the_device_some_images_at_a_time(maps: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, moved, to = neighbourhood_rows(maps, 1), list[int](), torch.Tensor.to
    whole = mutual_scores(rows)
    monkeypatch.setattr(mutual, "_ROW_BYTES", 4 * 12 * 5 * 2)  # two images at a time
    assert searches(7, 12, 5) == 28

    def counted(self: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        moved.append(self.numel())
        return to(self, *given, **named)

    model = ZeroShot(tiny_config(device="cpu"), degrees=(1,))
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "to", counted)
        found = model._group_scores([maps], torch.Size((4, 3)), lambda *_: None)
    assert torch.equal(found.flatten(1), whole)
    assert max(moved) == 2 * 12 * 5 and sum(m == 12 * 5 for m in moved) >= 28


def test_an_image_does_not_score_itself_and_one_without_a_like_stands_out() -> None:
    rows = torch.nn.functional.normalize(torch.rand(6, 8, 4, generator=torch.Generator().manual_seed(1)), dim=2)
    rows[:5] = rows[0]
    rows[5, 3] = torch.tensor([-1.0, 0, 0, 0])
    rows[5, [0, 1, 2, 4, 5, 6, 7]] = rows[0, [0, 1, 2, 4, 5, 6, 7]]
    scores = mutual_scores(rows)
    assert scores.argmax() == 5 * 8 + 3 and scores[5, 3] > 1
    assert scores.sum() == scores[5, 3]  # all others have their equals in another image


@pytest.mark.parametrize(("images", "count"), [(2, 1), (4, 1), (5, 1), (8, 2), (11, 3), (101, 30)])
def test_the_share_is_of_the_other_images(images: int, count: int) -> None:
    assert counted_images(images, 0.3) == count


@pytest.mark.parametrize(
    ("rows", "share", "said"),
    [
        (torch.zeros(3, 4), 0.3, r"must be \[N, P, C\]"),
        (torch.zeros(3, 0, 4), 0.3, r"must be \[N, P, C\]"),
        (torch.zeros(1, 4, 4), 0.3, "two images or more"),
        (torch.zeros(3, 4, 4), 0.0, "share must lie"),
        (torch.zeros(3, 4, 4), 1.5, "share must lie"),
        (torch.full((3, 4, 4), torch.nan), 0.3, "finite"),
    ],
)
def test_what_cannot_be_scored_is_said(rows: torch.Tensor, share: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mutual_scores(rows, share)


@pytest.mark.parametrize(
    ("maps", "degree", "said"),
    [(torch.zeros(2, 3, 4), 1, "N, C, h, w"), (torch.zeros(2, 3, 4, 4, dtype=torch.int32), 1, "floating"),
     (torch.zeros(2, 3, 4, 4), 2, "odd"), (torch.zeros(2, 3, 4, 4), -1, "odd")],
)  # fmt: skip
def test_what_cannot_be_averaged_is_said(maps: torch.Tensor, degree: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        neighbourhood_rows(maps, degree)
