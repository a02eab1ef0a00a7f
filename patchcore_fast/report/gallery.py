"""Whole folders of pictures: of predictions one by one, and of an evaluation."""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchcore_fast.data import ImageRecord, ImageSet, load_image, load_mask
from patchcore_fast.report.images import overlay, save_png, shared_scale
from patchcore_fast.report.layers import write_layers
from patchcore_fast.report.plots import plot_histogram, plot_pr, plot_roc
from patchcore_fast.report.provenance import plot_provenance
from patchcore_fast.report.record import write_record
from patchcore_fast.report.sheet import SIDE, Panel, contact_sheet
from patchcore_fast.report.tables import write_json, write_scores_csv

SHEET_LIMIT = 48


def _small(array: NDArray[Any], nearest: bool = False) -> NDArray[Any]:
    """Shrink [H, W] or [H, W, 3] so that its longer side is at most twice a sheet picture's."""
    from PIL import Image

    scale = 2 * SIDE / max(array.shape[:2])
    if scale >= 1:
        return array
    size = (max(round(array.shape[1] * scale), 1), max(round(array.shape[0] * scale), 1))
    way = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(array).resize(size, way))


class Gallery:
    """Heat maps written one by one; the panels of the highest scores are kept for a contact sheet.

    Parameters
    ----------
    folder : overlays go here, in sub-folders as below `root`.
    vmin, vmax : the scale of all pictures.
    root : pictures of files below it keep their sub-folders; others get their file name.
    """

    def __init__(self, folder: Path, vmin: float, vmax: float, root: Path) -> None:
        self.folder, self.vmin, self.vmax, self.root = folder, vmin, vmax, root
        self._highest: list[tuple[float, int, Panel]] = []  # heap: memory does not grow with the number of images
        self._taken: set[Path] = set()
        self.count = 0

    def add(self, record: ImageRecord, prediction: Any) -> tuple[Path, Panel]:
        """Write the overlay of one prediction; returns its path and the panel, shrunk for a contact sheet."""
        image = (load_image(record.path).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        full = np.asarray(prediction.full_map(), dtype=np.float32)
        mask = None if record.mask is None else load_mask(record.mask).numpy()
        name = self._name(record.path)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, overlay(image, full, vmin=self.vmin, vmax=self.vmax, mask=mask))
        panel = Panel(
            image=_small(image),
            anomaly_map=_small(full),
            score=prediction.score,
            name=name.with_suffix("").as_posix(),
            label=record.label,
            is_anomalous=prediction.is_anomalous,
            mask=None if mask is None else _small(mask.astype(np.uint8), nearest=True) > 0,
        )
        heapq.heappush(self._highest, (prediction.score, -self.count, panel))
        if len(self._highest) > SHEET_LIMIT:
            heapq.heappop(self._highest)
        self.count += 1
        return path, panel

    def _name(self, source: Path) -> Path:
        name = Path(os.path.relpath(source, self.root))
        name = (Path(source.name) if ".." in name.parts else name).with_suffix(".png")
        stem, n = name.stem, 1
        while name in self._taken:  # a.jpg beside a.png
            n += 1
            name = name.with_name(f"{stem}_{n}.png")
        self._taken.add(name)
        return name

    def write_sheet(self, path: str | os.PathLike[str], title: str) -> None:
        """Contact sheet of the panels with the highest scores, highest first."""
        panels = [panel for _, _, panel in sorted(self._highest, key=lambda t: t[:2], reverse=True)]
        if len(panels) < self.count:
            title = f"{title}: the {len(panels)} highest scores"
        contact_sheet(panels, path, vmin=self.vmin, vmax=self.vmax, title=title)


def _for_sheet(records: Sequence[ImageRecord], limit: int = SHEET_LIMIT) -> list[int]:
    """Positions to show: normal images, then defects; of many, evenly spaced ones (a third of them normal)."""
    normal = [i for i, r in enumerate(records) if r.label == 0]
    others = [i for i, r in enumerate(records) if r.label != 0]
    few = min(len(normal), max(limit // 3, limit - len(others)))
    shown: list[int] = []
    for group, count in ((normal, few), (others, min(len(others), limit - few))):
        shown += [group[i] for i in np.linspace(0, len(group) - 1, count).round().astype(int)]
    return shown


def write_evaluation(folder: Path, name: str, images: ImageSet, result: Any, model: Any = None) -> None:
    """Write pictures (heatmaps/, layers/, contact_sheet.png, roc.png, pr.png, histogram.png, provenance.png) and
    numbers (scores.csv, metrics.json, report.json) into a folder: all that `patchcore-fast report` needs.

    Parameters
    ----------
    folder : exists.
    name : of the data, for the titles.
    images : the set that was evaluated.
    result : `model.Evaluation` of it, with its predictions. roc.png and pr.png need both kinds of images.
    model : the fitted `PatchCore`, for provenance.png and what report.json says of the bank.
    """
    threshold = result.metrics["threshold"]
    known = threshold if np.isfinite(threshold) else None
    gallery = Gallery(folder / "heatmaps", *shared_scale([p.anomaly_map for p in result.predictions], known),
                      images.root / "test")  # fmt: skip
    shown = dict.fromkeys(_for_sheet(images.test))
    panels: dict[int, Panel] = {}
    layers: list[dict[str, str | None]] = []
    for i, (record, prediction) in enumerate(zip(images.test, result.predictions, strict=True)):
        path, panel = gallery.add(record, prediction)
        stem = (Path("layers") / path.relative_to(gallery.folder).with_suffix("")).as_posix()
        layers.append(write_layers(folder, stem, panel, gallery.vmin, gallery.vmax))
        if i in shown:
            panels[i] = panel
    auroc = result.metrics["image_auroc"]
    title = f"{name}: {gallery.count} test images" + (f", image AUROC {auroc:.3f}" if np.isfinite(auroc) else "")
    if len(shown) < gallery.count:
        title += f" ({len(shown)} shown)"
    contact_sheet([panels[i] for i in shown], folder / "contact_sheet.png", vmin=gallery.vmin, vmax=gallery.vmax,
                  title=title)  # fmt: skip
    labels, scores = result.curves["labels"], result.curves["scores"]
    plot_histogram(scores, labels, folder / "histogram.png", threshold=known, title=f"{name}: image scores")
    if len(set(labels)) == 2:
        plot_roc({name: (labels, scores)}, folder / "roc.png", title="Finding defective images")
        plot_pr({name: (labels, scores)}, folder / "pr.png", title="Finding defective images")
    if model is not None and model.bank.positions is not None and model.bank.grid is not None:
        _write_provenance(folder / "provenance.png", name, model.bank)
    write_scores_csv(folder / "scores.csv", result.images)
    write_json(folder / "metrics.json", result.to_dict() | {"data": images.reckoning.to_dict()})
    write_record(folder, name, images, result, layers, (gallery.vmin, gallery.vmax), model)


def _write_provenance(path: Path, name: str, bank: Any) -> None:
    from patchcore_fast.coverage import spatial_coverage

    count = max(len(bank.images), int(bank.positions[:, 0].max()) + 1)
    names = [x.rsplit("/", 1)[-1] for x in bank.images] + [f"image {i}" for i in range(len(bank.images), count)]
    coverage = spatial_coverage(bank.positions, count, bank.grid)
    plot_provenance(coverage, path, names=names, title=f"{name}: where the bank comes from")
