"""metrics.json and report.json of a folder, checked: a page is made of all of it or not at all."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore_fast.errors import DataError
from patchcore_fast.report.record import FILE, FORMAT, FORMAT_VERSION

METRICS = "metrics.json"


@dataclass(frozen=True)
class Record:
    """What `evaluate` wrote into `folder`.

    metrics, images, curves, config : of metrics.json, as `model.Evaluation.to_dict` gives them.
    facts : report.json (`report.record.write_record`).
    """

    folder: Path
    metrics: dict[str, Any]
    images: list[dict[str, Any]]
    curves: dict[str, Any]
    config: dict[str, Any]
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the data."""
        return str(self.facts["name"])

    @property
    def threshold(self) -> float | None:
        """The bank's, None where it has none."""
        return number(self.metrics.get("threshold"))

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Bootstrap interval of a metric, None where there is none."""
        found = self.facts["intervals"]["metrics"].get(metric)
        return None if found is None else (float(found[0]), float(found[1]))


def number(value: Any) -> float | None:
    """A finite float, or None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def read_record(folder: Path) -> Record:
    """Read and check a folder.

    Raises
    ------
    DataError : it is no folder, was not written by `evaluate --output`, is of a newer version, or is damaged; names the
        file and what is wrong with it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (wanted: an output folder of evaluate)")
    metrics, facts = _read(folder / METRICS), _read(folder / FILE)
    if facts.get("format") != FORMAT:
        raise DataError(f"{folder / FILE}: not written by patchcore-fast evaluate")
    if facts.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{folder / FILE}: format version {facts.get('format_version')!r}, this version reads "
                        f"{FORMAT_VERSION}")  # fmt: skip
    try:
        parts = {name: metrics[name] for name in ("metrics", "images", "curves", "config")}
        record = Record(folder=folder, facts=facts, **parts)
        _check(record)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{folder}: {METRICS} and {FILE} do not hold what evaluate writes ({what})") from error
    return record


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: missing; give the folder that `patchcore-fast evaluate DATA --output DIR` wrote")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: damaged, no JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: a JSON object is wanted, got a {type(found).__name__}")
    return found


def _check(record: Record) -> None:
    layers = record.facts["layers"]
    if not record.images:
        raise ValueError("no images")
    if len(layers) != len(record.images):
        raise ValueError(f"{len(record.images)} images but {len(layers)} sets of layers")
    for image, layer in zip(record.images, layers, strict=True):
        if number(image["score"]) is None or image["label"] not in (-1, 0, 1):
            raise ValueError(f"image {image['path']!r} has score {image['score']!r} and label {image['label']!r}")
        if not isinstance(image["path"], str) or not isinstance(image["defect"], str):
            raise ValueError(f"image {image['path']!r} has no text for its path or defect")
        for part in ("photo", "heat"):
            _inside(record.folder, layer[part])
        if layer["mask"] is not None:
            _inside(record.folder, layer["mask"])
    record.facts["intervals"]["metrics"].items()
    for key in ("name", "created", "defects", "bank", "seconds", "environment"):
        record.facts[key]
    if (data := record.facts.get("data")) is not None:
        counts = [n for kinds in data["images"].values() for n in kinds.values()]
        if not all(isinstance(n, int) for n in (data["masks"], *counts)):
            raise ValueError("counts of images and masks must be integers")
        for finding in data["findings"]:
            finding["text"], finding["warning"]


def _inside(folder: Path, name: Any) -> None:
    """A layer is a file of this folder: a record from elsewhere must not pull other files of the reader into a page."""
    path = (folder / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name} lies outside of the folder")
    if not path.is_file():
        raise DataError(f"{folder / str(name)}: missing; evaluate writes it")
