"""Tiles: which pixels they are, whose features a place takes, and that no seam, shift or batch changes anything."""

from __future__ import annotations

import functools

import pytest
import torch

from patchcore_fast.features import Backbone, FeatureExtractor, TiledExtractor
from patchcore_fast.features.tiles import Span, spans


@functools.cache
def _backbone() -> Backbone:
    return Backbone("test_efficientnet", (1, 2), "random")  # strides 4 and 8


def _extractor(fusion: str = "concat") -> FeatureExtractor:
    return FeatureExtractor(_backbone(), fusion)


def _tiled(tile: int | None, overlap: int = 0, fusion: str = "concat", batch: int = 16) -> TiledExtractor:
    return TiledExtractor(_backbone(), fusion, tile=tile, overlap=overlap, batch=batch)


def _image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _map(extractor: FeatureExtractor, image: torch.Tensor) -> torch.Tensor:
    features, (h, w) = extractor(image)
    return features.view(len(image), h, w, -1)


def test_spans_cover_an_axis_once_and_cut_in_the_middle() -> None:
    assert spans(64, 64, 48, 4) == [Span(0, 0, 64)]
    assert spans(112, 64, 48, 4) == [Span(0, 0, 56), Span(48, 56, 112)]
    assert spans(120, 64, 48, 4) == [Span(0, 0, 56), Span(48, 56, 84), Span(56, 84, 120)]  # the last is shifted back
    for length in range(64, 400, 8):
        for step in (8, 24, 48, 64):
            found = spans(length, 64, step, 4)
            assert [s.last for s in found[:-1]] == [s.first for s in found[1:]]
            assert found[0].first == 0 and found[-1].last == length == found[-1].start + 64
            for span in found:
                assert span.start % 8 == 0 and span.start <= span.first <= span.last <= span.start + 64
                assert not span.first % 4 and not span.last % 4


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 64), (8, 40)])
def test_an_image_no_larger_than_a_tile_is_as_without(height: int, width: int) -> None:
    image = _image(height, width)
    for tiled in (_tiled(64, 16), _tiled(None)):
        got, want = tiled(image), _extractor()(image)
        assert got.grid == want.grid and torch.equal(got.features, want.features)
        assert tiled.covered((height, width)) == (height, width)


def test_a_side_that_is_no_multiple_is_mirrored_and_cut_off() -> None:
    image = _image(37, 50)
    padded = image[:, :, [*range(37), 35, 34, 33]][:, :, :, [*range(50), 48, 47, 46, 45, 44, 43]]
    want = _map(_extractor(), padded)[:, :10, :13]
    tiled = _tiled(64, 16)
    assert torch.equal(_map(tiled, image), want)
    assert tiled(image).grid == (10, 13) and tiled.covered((37, 50)) == (40, 52)
    assert tiled(_image(1, 3)).grid == (1, 1)  # mirrored more than once


def test_each_place_has_the_features_of_the_tile_that_owns_it() -> None:
    image = _image(120, 165)
    tiled = _tiled(64, 16, batch=1)
    got = _map(tiled, image)
    assert got.shape[1:3] == (30, 42)
    width = torch.arange(168)
    mirrored = image[:, :, :, torch.minimum(width, 328 - width)]
    seen = torch.zeros(30, 42)
    for y in spans(120, 64, 48, 4):
        for x in spans(168, 64, 48, 4):
            tile = _map(_extractor(), mirrored[:, :, y.start : y.start + 64, x.start : x.start + 64])
            rows, columns = slice(y.first // 4, y.last // 4), slice(x.first // 4, x.last // 4)
            part = tile[0, (y.first - y.start) // 4 :, (x.first - x.start) // 4 :]
            here = got[0, rows, columns]
            assert torch.equal(here, part[: here.shape[0], : here.shape[1]])
            seen[rows, columns] += 1
    assert torch.equal(seen, torch.ones(30, 42))


@pytest.mark.parametrize("fusion", ["concat", "amazon", "interpolated"])
def test_batches_of_tiles_and_images_do_not_matter(fusion: str) -> None:
    images = torch.cat([_image(80, 136, seed) for seed in range(3)])
    want = torch.cat([_tiled(64, 16, fusion, 1)(i[None]).features for i in images])
    for batch in (2, 5, 64):
        got = _tiled(64, 16, fusion, batch)(images)
        torch.testing.assert_close(got.features, want)


def test_a_shift_by_a_step_moves_the_map_and_changes_nothing_else() -> None:
    scene = _image(64 + 48 * 3, 64 + 48 * 4)
    tiled = _tiled(64, 16, batch=1)
    whole, shifted = _map(tiled, scene), _map(tiled, scene[:, :, 48:, 48:])
    # Tiles of both begin at the same pixels; only the edge itself is seen by another tile.
    assert torch.equal(whole[:, 12 + 2 :, 12 + 2 :], shifted[:, 2:, 2:])


def test_overlap_takes_the_borders_of_tiles_out_of_sight() -> None:
    backbone, image = Backbone("test_resnet", (1, 2), "random"), _image(160, 160)
    whole = _map(FeatureExtractor(backbone), image)
    tiled = [_map(TiledExtractor(backbone, tile=64, overlap=n), image) for n in (0, 16, 32)]
    error = [float((one - whole).norm() / whole.norm()) for one in tiled]
    assert error[0] > 3 * error[1] and error[0] > 20 * error[2]


def test_what_tiles_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"multiple of 8.*got 60: 56 or 64 is near"):
        _tiled(60)
    with pytest.raises(ValueError, match="got 5: 8 is near"):
        _tiled(5)
    for overlap in (57, 64, -1):
        with pytest.raises(ValueError, match=rf"overlap must lie in 0\.\.56.*got {overlap}"):
            _tiled(64, overlap)
    with pytest.raises(ValueError, match="images must be"):
        _tiled(64)(torch.rand(3, 64, 64))


def test_a_network_of_one_size_sees_tiles_of_it() -> None:
    backbone = Backbone("test_efficientnet", (1, 2), "random")
    backbone.fixed_size = (64, 64)
    with pytest.raises(ValueError, match=r"takes .64, 64. pixels, got the tile 56"):
        TiledExtractor(backbone, tile=56)
    for size in ((20, 30), (100, 64), (64, 64)):
        assert TiledExtractor(backbone, tile=64, overlap=16)(_image(*size)).grid == (size[0] // 4, -(-size[1] // 4))


def test_an_embedding_is_the_mean_of_the_tiles() -> None:
    tiled, image = _tiled(64, batch=3), _image(64, 128)
    both = torch.cat([image, image.flip(2)])
    found, embeddings = tiled.with_embeddings(both)
    assert torch.equal(found.features, tiled(both).features)
    plain = _extractor().with_embeddings(torch.cat(image.split(64, dim=3)))[1]
    assert embeddings.shape == (2, tiled.embedding_columns)
    torch.testing.assert_close(embeddings[0], plain.mean(0), rtol=1e-4, atol=1e-6)
