"""Whole folders of pictures: of predictions one by one, and of an evaluation."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.data import ImageRecord, ImageSet, load_mask
from patchcore_fast.names import printable
from patchcore_fast.report.files import PictureNames
from patchcore_fast.report.images import (
    draw_boxes,
    drawn_size,
    overlay,
    photograph,
    region_boxes,
    save_png,
    shared_scale,
)
from patchcore_fast.report.layers import write_layers
from patchcore_fast.report.plots import plot_histogram, plot_pr, plot_roc
from patchcore_fast.report.problems import Problems
from patchcore_fast.report.provenance import plot_provenance
from patchcore_fast.report.record import FILE, write_record
from patchcore_fast.report.scores_csv import COLUMNS, write_scores_csv
from patchcore_fast.report.sheet import SIDE, Panel, contact_sheet
from patchcore_fast.report.tables import write_json
from patchcore_fast.report.text import shorten
from patchcore_fast.written import writing

SHEET_LIMIT = 48


def _small(array: NDArray[Any], nearest: bool = False) -> NDArray[Any]:
    """Shrink [H, W] or [H, W, 3] so that its longer side is at most twice a sheet picture's."""
    from PIL import Image

    size = drawn_size((array.shape[0], array.shape[1]), 2 * SIDE)
    if size == array.shape[:2]:
        return array
    way = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(array).resize(size[::-1], way))


class Gallery:
    """Heat maps written one by one; the panels of the highest scores are kept for a contact sheet.

    Parameters
    ----------
    folder : overlays go to heatmaps/ in it.
    vmin, vmax : the scale of all pictures.
    note : called with the name of each file, relative to `folder`, before it is written.
    """

    def __init__(self, folder: Path, vmin: float, vmax: float, note: Callable[[str], None]) -> None:
        self.folder, self.vmin, self.vmax, self.note = folder, vmin, vmax, note
        self._highest: list[tuple[float, int, Panel]] = []  # heap: memory does not grow with the number of images
        self.count = 0

    def add(self, record: ImageRecord, prediction: Any, name: PurePosixPath) -> Panel:
        """Write the overlay of one prediction as heatmaps/`name`; returns the panel of a contact sheet.

        The picture is of `drawn_size`: photograph, map, mask and boxes are brought to it one by one.
        """
        image = photograph(record.path)
        size = image.shape[0], image.shape[1]
        heat = np.asarray(prediction.full_map(size), dtype=np.float32)
        mask = None if record.mask is None else load_mask(record.mask, size).numpy()
        path = self.folder / "heatmaps" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.note(f"heatmaps/{name}")
        boxes = region_boxes(prediction.regions, prediction.size)
        save_png(path, draw_boxes(overlay(image, heat, vmin=self.vmin, vmax=self.vmax, mask=mask), boxes))
        panel = Panel(
            image=_small(image),
            anomaly_map=_small(heat),
            score=prediction.score,
            name=name.with_suffix("").as_posix(),
            label=record.label,
            is_anomalous=prediction.is_anomalous,
            mask=None if mask is None else _small(mask.astype(np.uint8), nearest=True) > 0,
            boxes=boxes,
        )
        heapq.heappush(self._highest, (prediction.score, -self.count, panel))
        if len(self._highest) > SHEET_LIMIT:
            heapq.heappop(self._highest)
        self.count += 1
        return panel

    def write_sheet(self, name: str, title: str) -> None:
        """Contact sheet of the panels with the highest scores, highest first."""
        panels = [panel for _, _, panel in sorted(self._highest, key=lambda t: t[:2], reverse=True)]
        if len(panels) < self.count:
            title = f"{title}: the {len(panels)} highest scores"
        self.note(name)
        contact_sheet(panels, self.folder / name, vmin=self.vmin, vmax=self.vmax, title=title)


def _for_sheet(records: Sequence[ImageRecord], limit: int = SHEET_LIMIT) -> list[int]:
    """Positions to show: normal images, then others; of many, evenly spaced ones (a third of them normal)."""
    normal = [i for i, r in enumerate(records) if r.label == 0]
    others = [i for i, r in enumerate(records) if r.label != 0]
    few = min(len(normal), max(limit // 3, limit - len(others)))
    chosen: list[int] = []
    for group, count in ((normal, few), (others, min(len(others), limit - few))):
        chosen += [group[i] for i in np.linspace(0, len(group) - 1, count).round().astype(int)]
    return chosen


def write_evaluation(folder: Path, name: str, images: ImageSet, result: Any, model: Any = None) -> Problems:
    """Write numbers (scores.csv, metrics.json), then pictures (heatmaps/, layers/, contact_sheet.png, roc.png, pr.png,
    histogram.png, provenance.png) and report.json into a folder: all that `patchcore-fast report` needs.

    What an earlier run wrote there and this one does not is removed (`written.writing`).

    Parameters
    ----------
    folder : exists.
    name : of the data, for the titles.
    images : the set that was evaluated.
    result : `model.Evaluation` of it, with its predictions. roc.png and pr.png need both kinds of images.
    model : the fitted `PatchCore`, for provenance.png and what report.json says of the bank; or of another method.

    Returns
    -------
    What could not be drawn or written after the numbers, which are whole.

    Raises
    ------
    OSError : scores.csv or metrics.json cannot be written.
    """
    images = replace(images, test=[r for r in result.records if r is not None])
    problems = Problems()
    # Beside new numbers an old record would be a lie, should this run not get as far as its own.
    (folder / FILE).unlink(missing_ok=True)
    with writing(folder) as note:
        for file in ("scores.csv", "metrics.json"):
            note(file)
        rows = [*result.images, *result.unread]
        write_scores_csv(folder / "scores.csv", rows, COLUMNS)
        write_json(folder / "metrics.json", result.to_dict() | {"data": images.summary.to_dict()})
        name = printable(name)
        gallery, layers, heatmaps = _write_pictures(folder, shorten(name, 60), images, result, note, problems)
        if any(heatmaps):  # again, now that it is known which pictures there are
            with problems.attempt("scores.csv, column heatmap"):
                named = [row | {"heatmap": picture} for row, picture in zip(result.images, heatmaps, strict=True)]
                write_scores_csv(folder / "scores.csv", [*named, *result.unread], COLUMNS)
        bank = getattr(model, "bank", None)  # other methods have none
        if bank is not None and bank.positions is not None and bank.grid is not None:
            _plot(problems, note, folder / "provenance.png", lambda p: _write_provenance(p, name, bank))
        with problems.attempt(FILE):
            note(FILE)
            write_record(folder, name, images, result, layers, (gallery.vmin, gallery.vmax), model)
    return problems


def _write_pictures(
    folder: Path, name: str, images: ImageSet, result: Any, note: Callable[[str], None], problems: Problems
) -> tuple[Gallery, list[dict[str, str | None]], list[str]]:
    """Everything that shows images and scores.

    Returns the gallery, and of each image its layers for report.json and the name of its heat map ("" for none).
    """
    threshold = result.metrics["threshold"]
    known = threshold if np.isfinite(threshold) else None
    limits = shared_scale([p.anomaly_map for p in result.predictions], known)
    gallery, names = Gallery(folder, *limits, note), PictureNames(images.root / "test")
    on_sheet = dict.fromkeys(_for_sheet(images.test))
    panels: dict[int, Panel] = {}
    layers: list[dict[str, str | None]] = []
    heatmaps: list[str] = []
    for i, (record, prediction) in enumerate(zip(images.test, result.predictions, strict=True)):
        layers.append(dict.fromkeys(("photo", "heat", "mask")))
        heatmaps.append("")
        with problems.attempt(f"the pictures of {result.images[i]['path']}"):
            path = names.of(record.path)
            panel = gallery.add(record, prediction, path)
            heatmaps[i] = f"heatmaps/{path}"
            if i in on_sheet:
                panels[i] = panel
            layers[i] = write_layers(folder, f"layers/{path.with_suffix('')}", panel, *limits, note)
    auroc = result.metrics["image_auroc"]
    title = f"{name}: {len(images.test)} test images" + (f", image AUROC {auroc:.3f}" if np.isfinite(auroc) else "")
    if len(panels) < len(images.test):
        title += f" ({len(panels)} shown)"

    def plot(file: str, draw: Callable[[Path], None]) -> None:
        _plot(problems, note, folder / file, draw)

    labels, scores = result.curves["labels"], result.curves["scores"]
    plot("contact_sheet.png", lambda p: contact_sheet([panels[i] for i in on_sheet if i in panels], p,
                                                      vmin=limits[0], vmax=limits[1], title=title))  # fmt: skip
    plot("histogram.png", lambda p: plot_histogram(scores, labels, p, threshold=known, title=f"{name}: image scores"))
    if len(set(labels)) == 2:
        curves = {name: (labels, scores)}
        plot("roc.png", lambda p: plot_roc(curves, p, threshold=known, title="Finding anomalous images"))
        plot("pr.png", lambda p: plot_pr(curves, p, title="Finding anomalous images"))
    return gallery, layers, heatmaps


def _plot(problems: Problems, note: Callable[[str], None], path: Path, draw: Callable[[Path], None]) -> None:
    with problems.attempt(path.name):
        note(path.name)
        draw(path)


def _write_provenance(path: Path, name: str, bank: Any) -> None:
    from patchcore_fast.coverage import spatial_coverage

    count = max(len(bank.images), int(bank.positions[:, 0].max()) + 1)
    names = [x.rsplit("/", 1)[-1] for x in bank.images] + [f"image {i}" for i in range(len(bank.images), count)]
    coverage = spatial_coverage(bank.positions, count, bank.grid)
    plot_provenance(coverage, path, names=names, title=f"{name}: where the bank comes from")
