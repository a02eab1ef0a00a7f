"""Masks, regions.csv and regions.json hold the regions of predictions; pycocotools reads the last as COCO."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from patchcore_fast.model.results import Prediction
from patchcore_fast.regions import find_regions
from patchcore_fast.report.region_files import COLUMNS, RegionFiles, run_lengths

from ..evaluated import files, rows_of

SIZES = [(37, 53), (64, 64), (120, 31)]


def predictions(seed: int = 0) -> list[Prediction]:
    """Maps of a square squashed from three odd sizes, one of them without a region."""
    rng = np.random.default_rng(seed)
    maps = [ndimage.gaussian_filter(rng.random((32, 32), dtype=np.float32), 2) for _ in SIZES]
    maps[1] -= 1
    t = float(np.quantile(maps[0], 0.93))
    return [
        Prediction(Path(f"in/{i}.png"), 1.0, m, True, size, (32, 32), pixel_threshold=t, hysteresis=0.97)
        for i, (m, size) in enumerate(zip(maps, SIZES, strict=True))
    ]


def write(folder: Path, found: list[Prediction]) -> list[str]:
    noted: list[str] = []
    folder.mkdir()
    written = RegionFiles(folder, noted.append)
    for p in found:
        assert p.path is not None
        written.add(p.path, p, PurePosixPath(p.path.name))
    assert written.count == sum(len(p.regions or ()) for p in found)
    written.close()
    return noted


def coco(path: Path) -> Any:
    tools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed (extra test)")
    with contextlib.redirect_stdout(io.StringIO()):
        return tools.COCO(str(path))


def test_the_files_hold_the_regions(tmp_path: Path) -> None:
    found = predictions()
    assert files(tmp_path) == set()
    noted = write(tmp_path / "out", found)
    names = {"regions.csv", "regions.json", *(f"masks/{i}.png" for i in range(3))}
    assert files(tmp_path / "out") == names == set(noted)
    rows = rows_of(tmp_path / "out/regions.csv")
    assert tuple(rows[0]) == COLUMNS
    want = [
        {"path": str(p.path), "region": n, "x": r.x, "y": r.y, "width": r.width, "height": r.height, "area": r.area,
         "centroid_x": r.centroid[0], "centroid_y": r.centroid[1], "maximum": r.maximum}
        for p in found for n, r in enumerate(p.regions or (), start=1)
    ]  # fmt: skip
    assert len(rows) == len(want) > 3 and {row["path"] for row in rows} == {"in/0.png", "in/2.png"}
    for row, w in zip(rows, want, strict=True):
        assert row["path"] == w["path"]
        assert [float(row[k]) for k in COLUMNS[1:]] == pytest.approx([w[k] for k in COLUMNS[1:]], rel=1e-8)
    for p in found:
        with Image.open(tmp_path / f"out/masks/{Path(str(p.path)).name}") as im:
            assert im.mode == "L" and im.size == p.size[::-1]
            drawn = np.asarray(im)
        assert set(np.unique(drawn)) <= {0, 255} and np.array_equal(drawn > 0, p.mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2
def test_pycocotools_reads_the_same_boxes_areas_and_masks(tmp_path: Path) -> None:
    found = predictions(1)
    write(tmp_path / "out", found)
    read = coco(tmp_path / "out/regions.json")
    from pycocotools import mask as run_length

    assert [c["name"] for c in read.loadCats(read.getCatIds())] == ["anomaly"]
    images = read.loadImgs(read.getImgIds())
    assert [i["file_name"] for i in images] == [str(p.path) for p in found]
    for p, image in zip(found, images, strict=True):
        assert (image["height"], image["width"]) == p.size and p.regions is not None
        annotations = read.loadAnns(read.getAnnIds(imgIds=[image["id"]]))
        assert len(annotations) == len(p.regions)
        for a, r in zip(annotations, p.regions, strict=True):
            encoded = read.annToRLE(a)
            assert run_length.area(encoded) == a["area"] == r.area and a["score"] == r.maximum
            assert run_length.toBbox(encoded).tolist() == a["bbox"] == [r.x, r.y, r.width, r.height]
            whole = np.zeros(p.size, bool)
            whole[r.box] = r.mask
            assert np.array_equal(read.annToMask(a) > 0, whole)
    assert sum(len(p.regions or ()) for p in found) > 3


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_run_lengths_of_any_shape(share: float) -> None:
    run_length = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed (extra test)")
    mask = np.random.default_rng(2).random((23, 17)) < share
    for region in find_regions(mask, 0.5):
        whole = np.zeros(mask.shape, np.uint8, order="F")
        whole[region.box] = region.mask
        found = run_length.frPyObjects(run_lengths(region, (23, 17)), 23, 17)
        assert found == run_length.encode(whole)


def test_files_without_a_region_are_whole(tmp_path: Path) -> None:
    write(tmp_path / "out", [predictions()[1]])
    assert rows_of(tmp_path / "out/regions.csv") == []
    assert coco(tmp_path / "out/regions.json").getAnnIds() == []
    image = {"id": 1, "file_name": "in/1.png", "width": 64, "height": 64, "mask": "masks/1.png"}
    assert json.loads((tmp_path / "out/regions.json").read_text())["images"] == [image]


def test_what_json_cannot_hold_leaves_the_file_readable(tmp_path: Path) -> None:
    odd, fine = predictions()[:2]
    endless = replace(odd, anomaly_map=np.where(odd.anomaly_map > odd.pixel_threshold, np.inf, 0).astype(np.float32))
    written = RegionFiles(tmp_path, lambda _: None)
    for p, name in ((odd, "a.png"), (endless, "b.png"), (fine, "c.png"), (odd, "d.png")):
        with pytest.raises(ValueError) if p is endless else contextlib.nullcontext():
            written.add(Path(name), p, PurePosixPath(name))
    written.close()
    read = json.loads((tmp_path / "regions.json").read_text())
    assert [i["file_name"] for i in read["images"]] == ["a.png", "b.png", "c.png", "d.png"]
    assert [a["id"] for a in read["annotations"]] == list(range(1, 2 * len(odd.regions or ()) + 1))
    assert {a["image_id"] for a in read["annotations"]} == {1, 4}
