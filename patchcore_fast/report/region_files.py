"""What predict leaves of regions while predictions come: masks, regions.csv and regions.json in COCO's format."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from patchcore_fast.files import atomic_write
from patchcore_fast.names import encodable
from patchcore_fast.regions import Region
from patchcore_fast.report.images import save_png
from patchcore_fast.report.scores_csv import append_scores

CSV, JSON, MASKS = "regions.csv", "regions.json", "masks"
COLUMNS = (
    "path", "region", "x", "y", "width", "height", "area", "centroid_x", "centroid_y", "maximum",
)  # fmt: skip
"""Columns of regions.csv; see `regions.Region`. All but `maximum` are pixels of the file as displayed.

path : as in scores.csv.  region : from 1 in each image, from top to bottom.
"""
CATEGORY = {"id": 1, "name": "anomaly"}


class RegionFiles:
    """Regions of predictions, written one after the other; memory does not grow with their number.

    `close` puts regions.csv and regions.json in place, with what there is so far. Errors are OSErrors of the file
    system.

    Parameters
    ----------
    folder : exists.  note : called with the name of each file, relative to `folder`, before it is written.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        """Both files are opened."""
        self._folder, self._note, self.count = folder, note, 0
        with ExitStack() as stack:
            for name in (CSV, JSON):
                note(name)
            self._row = stack.enter_context(append_scores(folder / CSV, columns=COLUMNS))
            self._annotate = stack.enter_context(_coco(folder / JSON))
            self._files = stack.pop_all()

    def add(self, path: Path, prediction: Any, name: PurePosixPath) -> None:
        """The mask of an image as masks/`name`, and its regions.

        prediction : `model.Prediction` with a pixel threshold, of a file that could be read.
        """
        for number, region in enumerate(prediction.regions, start=1):
            self._row({"path": str(path), "region": number, "x": region.x, "y": region.y, "width": region.width,
                       "height": region.height, "area": region.area, "centroid_x": region.centroid[0],
                       "centroid_y": region.centroid[1], "maximum": region.maximum})  # fmt: skip
        file = f"{MASKS}/{name}"
        self._annotate(path, prediction, file)
        self.count += len(prediction.regions)
        (self._folder / file).parent.mkdir(parents=True, exist_ok=True)
        self._note(file)
        save_png(self._folder / file, prediction.mask.astype(np.uint8) * 255)

    def close(self) -> None:
        """Both files get their names."""
        self._files.close()


@contextmanager
def _coco(path: Path) -> Iterator[Callable[[Path, Any, str], None]]:
    """COCO's two lists grow side by side, so one of them waits in a file without a name."""
    with tempfile.TemporaryFile(dir=path.parent) as images, atomic_write(path) as annotations:
        counts = {"image": 0, "annotation": 0}

        def write(file: Any, kind: str, values: dict[str, Any]) -> None:
            text = json.dumps({"id": counts[kind] + 1} | values, allow_nan=False)  # before a byte of it is written
            file.write(((",\n" if counts[kind] else "\n") + text).encode("ascii"))
            counts[kind] += 1

        def add(source: Path, prediction: Any, mask: str) -> None:
            height, width = prediction.size
            write(images, "image", {"file_name": encodable(source), "width": width, "height": height, "mask": mask})
            for region in prediction.regions:
                write(annotations, "annotation", {
                    "image_id": counts["image"], "category_id": CATEGORY["id"],
                    "bbox": [region.x, region.y, region.width, region.height], "area": region.area, "iscrowd": 0,
                    "segmentation": run_lengths(region, (height, width)), "score": region.maximum,
                })  # fmt: skip

        annotations.write(b'{"categories": [' + json.dumps(CATEGORY).encode("ascii") + b'],\n"annotations": [')
        try:
            yield add
        finally:
            images.seek(0, os.SEEK_SET)
            annotations.write(b'],\n"images": [')
            shutil.copyfileobj(images, annotations)
            annotations.write(b"]}\n")


def run_lengths(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's uncompressed run lengths of a region in a map [H, W]: pixels outside, inside, outside, ... by columns."""
    columns, rows = region.mask.T.nonzero()
    inside = (region.x + columns) * size[0] + region.y + rows  # ascending
    breaks = np.flatnonzero(np.diff(inside) > 1)
    first, last = inside[np.r_[0, breaks + 1]], inside[np.r_[breaks, -1]] + 1
    edges = np.r_[0, np.stack([first, last], axis=1).ravel()]
    counts = np.diff(edges).tolist()
    rest = size[0] * size[1] - int(edges[-1])
    return {"size": list(size), "counts": [*counts, rest] if rest else counts}
