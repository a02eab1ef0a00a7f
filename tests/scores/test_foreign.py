"""Distances to the nearest row of another image: against brute force in float64, however the rows lie and are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from patchcore_fast.scores import Layout, foreign, nearest_of_other_images, support_distance

from ..patches import fields, normal, positions

CHUNKS = (1, 7, 100, 1 << 16)


def brute(x: torch.Tensor, ids: torch.Tensor, asked: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distances [M] float32 and rows [M] in plain steps; of equal distances the lowest row, inf and -1 without any."""
    table, image = x.double().numpy(), ids.numpy()
    distance, row = [], []
    for i in range(len(x)) if asked is None else asked.tolist():
        squared = np.square(table - table[i]).sum(1)
        squared[image == image[i]] = np.inf
        at = int(squared.argmin())  # the first of equal ones
        distance.append(np.sqrt(squared[at]))
        row.append(at if squared[at] < np.inf else -1)
    return np.array(distance).astype(np.float32), np.array(row)


def agrees(x: torch.Tensor, ids: torch.Tensor, asked: torch.Tensor | None = None, **options: Any) -> bool:
    found, (distance, row) = support_distance(x, asked, image_ids=ids, **options), brute(x, ids, asked)
    assert found.distance.dtype == torch.float32 and found.row.dtype == torch.int64
    assert found.row.tolist() == row.tolist()
    np.testing.assert_allclose(found.distance.numpy(), distance, rtol=1e-6)
    return True


@pytest.fixture(autouse=True, params=[4, 64])
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few neighbours looked at, more queries take the other way, image by image."""
    monkeypatch.setattr(foreign, "_NEAR", request.param)


def crowds(images: int, own: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tight crowds, one an image: the nearest rows of each, as many as are looked at first, are of its own."""
    centres = 3 * normal(images, 6, seed)
    x = (centres[:, None] + 0.01 * normal(images * own, 6, seed + 1).view(images, own, 6)).flatten(0, 1)
    return x, torch.arange(images).repeat_interleave(own)


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_as_brute_force(chunk_size: int) -> None:
    x = fields(9, (5, 6), seed=1)
    ids = positions(9, (5, 6))[:, 0]
    assert agrees(x, ids, chunk_size=chunk_size)
    asked = torch.tensor([200, 3, 3, 269, 0])
    assert agrees(x, ids, asked, chunk_size=chunk_size)
    found = support_distance(x.numpy(), asked.numpy(), positions=positions(9, (5, 6)), chunk_size=chunk_size)
    assert found.row.tolist() == brute(x, ids, asked)[1].tolist()


def test_thinned_rows_are_spread_over_all_images() -> None:
    images = torch.arange(90).repeat_interleave(34 * 34)  # a width at which a sequence by the golden ratio has stripes
    kept = foreign.thinned(torch.arange(len(images)), images, 5)
    assert float(kept.float().mean()) == pytest.approx(0.2, abs=0.001)
    assert kept.view(-1, 5).sum(dim=1).max() <= 2 and kept.view(-1, 5).any(dim=1).all()
    columns = kept.view(-1, 34).float().mean(dim=0)[1:]  # the first has the first row of each image
    assert columns.min() > 0.17 and columns.max() < 0.23  # four standard deviations of a draw
    part = slice(40 * 34 * 34, 60 * 34 * 34)  # by numbers alone: another rank, another cut
    assert torch.equal(foreign.thinned(torch.arange(len(images))[part], images[part], 5), kept[part])
    assert foreign.thinned(torch.arange(60), torch.arange(60), 5).all()  # one row an image
    assert foreign.thinned(torch.arange(60), torch.zeros(60), 1).all()


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("every", [2, 5, 1000])
def test_among_some_rows_as_brute_force(every: int, chunk_size: int) -> None:
    crowd, of = crowds(4, 40)
    x = torch.cat([fields(9, (5, 6), seed=1), torch.nn.functional.pad(crowd, (0, 2))])
    ids = torch.cat([positions(9, (5, 6))[:, 0], 20 + of])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    for rows, of in ((x, ids), (x[order], ids[order])):
        kept = foreign.thinned(torch.arange(len(x)), of, every).nonzero()[:, 0]
        away = torch.cdist(rows.double(), rows[kept].double(), compute_mode="donot_use_mm_for_euclid_dist")
        away[of[:, None] == of[kept][None]] = torch.inf
        found = support_distance(rows, image_ids=of, chunk_size=chunk_size, every=every)
        assert torch.equal(found.row, kept[away.argmin(dim=1)])
        np.testing.assert_allclose(found.distance.numpy(), away.amin(dim=1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_images_in_any_order(chunk_size: int) -> None:
    """Rows of an image lie apart, and its number says nothing of its place."""
    x = fields(9, (5, 6), seed=2)
    order = torch.randperm(270, generator=torch.Generator().manual_seed(0))
    names = torch.tensor([40, -3, 7, 10**12, 0, 8, 5, 1, 2])
    assert agrees(x[order], names[positions(9, (5, 6))[:, 0]][order], chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("images, own", [(2, 40), (3, 9), (5, 30), (8, 12), (9, 25)])
def test_an_image_denser_than_the_neighbours_looked_at(images: int, own: int, chunk_size: int) -> None:
    x, ids = crowds(images, own)
    assert agrees(x, ids, chunk_size=chunk_size)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert agrees(x[order], ids[order], order[:50], chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_of_equal_distances_the_lowest_row(chunk_size: int) -> None:
    x = torch.randint(0, 3, (240, 3), generator=torch.Generator().manual_seed(0)).float()  # nearly all repeat
    ids = torch.arange(240) // 20
    assert agrees(x, ids, chunk_size=chunk_size)
    assert agrees(torch.ones(60, 2), torch.arange(60) // 20, chunk_size=chunk_size)


@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_distances_that_are_equal_only_when_rounded(chunk_size: int) -> None:
    """Both are 1 in float32; the farther one has the lower number."""
    x = torch.tensor([[1.0, 1e-5], [1.0, 0.0], [0.0, 0.0]])
    found = support_distance(x, [2], image_ids=[1, 2, 0], chunk_size=chunk_size)
    assert found.distance.tolist() == [1.0] and found.row.tolist() == [1]
    crowded = torch.cat([x, 1e-4 * normal(20, 2, 0)])  # by the other way, where all are of the row's own image
    ids = torch.tensor([1, 2, 0] + [0] * 20)
    assert support_distance(crowded, [2], image_ids=ids, chunk_size=chunk_size).row.tolist() == [1]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_of_other_types(kind: torch.dtype) -> None:
    x, ids = fields(6, (5, 6), seed=3).to(kind), positions(6, (5, 6))[:, 0]
    assert agrees(x, ids) and agrees(x, ids, chunk_size=11)
    crowd, of = crowds(4, 20)
    assert agrees(crowd.to(kind), of)


@pytest.mark.parametrize("rows", [1, 30])
def test_one_image_is_supported_by_none(rows: int) -> None:
    found = support_distance(normal(rows, 4, 0), image_ids=torch.zeros(rows, dtype=torch.int64), chunk_size=13)
    assert found.distance.tolist() == [np.inf] * rows and found.row.tolist() == [-1] * rows


def test_no_row_asked() -> None:
    found = support_distance(normal(8, 4, 0), torch.empty(0, dtype=torch.int64), image_ids=torch.arange(8))
    assert found.distance.shape == found.row.shape == (0,)


def test_a_layout_that_the_order_shows() -> None:
    x, where = fields(12, (8, 8), seed=0), positions(12, (8, 8))
    assert Layout.inferred(x) is not None
    seen, told = support_distance(x), support_distance(x, positions=where)
    assert torch.equal(seen.distance, told.distance) and torch.equal(seen.row, told.row)


def test_blocks_may_be_any_part_of_the_rows() -> None:
    """As a caller gives them that leaves images out: numbers with gaps, empty blocks, queries that are no rows."""
    x, ids = fields(6, (5, 6), seed=4), positions(6, (5, 6))[:, 0]
    kept = (ids != 2).nonzero()[:, 0]
    blocks = [(numbers, x[numbers], ids[numbers]) for numbers in (*kept.split(40), kept[:0])]
    queries = x[:30] + 0.1
    found = nearest_of_other_images(queries, torch.zeros(30, dtype=torch.int64), blocks)
    others = torch.cdist(queries.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    others[:, (ids == 0) | (ids == 2)] = torch.inf
    assert torch.equal(found.row, others.argmin(1))
    np.testing.assert_allclose(found.distance.numpy(), others.amin(1).numpy(), rtol=1e-6)
    nothing = nearest_of_other_images(queries, torch.zeros(30, dtype=torch.int64), [])
    assert nothing.distance.isinf().all() and (nothing.row == -1).all()


@pytest.mark.parametrize("options, error, words", [
    ({"image_ids": None}, ValueError, "image_ids or positions are wanted; the order of the 60 rows shows no images"),
    ({"indices": [0, 60]}, ValueError, r"indices must lie in 0\.\.59, got 0 to 60"),
    ({"indices": [-1]}, ValueError, r"indices must lie in 0\.\.59, got -1 to -1"),
    ({"indices": [0.5]}, TypeError, r"indices must be \[M\] integers, got \(1,\) torch.float32"),
    ({"indices": [True]}, TypeError, r"indices must be \[M\] integers, got \(1,\) torch.bool"),
    ({"indices": [[1]]}, TypeError, r"indices must be \[M\] integers, got \(1, 1\) torch.int64"),
    ({"indices": "all"}, TypeError, r"indices must be \[M\] integers, got str"),
    ({"indices": ["a"]}, TypeError, r"indices must be \[M\] integers, got list"),
    ({"image_ids": torch.arange(59)}, ValueError, r"image_ids must have shape \(60,\).*got \(59,\)"),
    ({"image_ids": torch.rand(60)}, TypeError, "image_ids must be integers, got torch.float32"),
    ({"positions": torch.zeros(60, 2, dtype=torch.int64)}, ValueError, r"positions must have shape \(60, 3\)"),
    ({"chunk_size": 0}, ValueError, "chunk_size must lie in .*got 0"),
    ({"every": 0}, ValueError, r"every must lie in 1\.\.1048576, got 0"),
    ({"every": 0.5}, TypeError, "every must be an integer, got 0.5"),
    ({"device": "nowhere"}, ValueError, "device must be one that torch can use"),
    ({"features": [1.0]}, TypeError, "features must be an ndarray or torch.Tensor"),
    ({"features": torch.zeros(0, 3)}, ValueError, "features must hold at least one row"),
    ({"features": torch.full((60, 3), torch.nan)}, ValueError, "60 of 60 .*not finite|features .*finite"),
    ({"group": "all"}, (TypeError, RuntimeError), "group"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")  # fmt: skip
def test_what_cannot_be_used_is_refused(
    options: dict[str, Any], error: type[Exception] | tuple[type[Exception], ...], words: str
) -> None:
    given = {"features": normal(60, 3, 0), "image_ids": torch.arange(60) // 10} | options
    with pytest.raises(error, match=f"^support_distance: .*({words})"):
        support_distance(**given)
