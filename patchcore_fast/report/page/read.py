"""metrics.json and report.json of a folder, checked: a page is made of all of it or not at all."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore_fast.errors import DataError
from patchcore_fast.names import printable
from patchcore_fast.report.page import schema
from patchcore_fast.report.record import FILE, FORMAT, FORMAT_VERSION

METRICS = "metrics.json"
# Keys of rows and counts before format version 2, and what they are called now; "defects" is now "defect_types".
FROM_VERSION_1 = {"defect": "defect_type", "predicted": "is_anomalous", "found": "true_positives",
                  "missed": "false_negatives", "false_alarms": "false_positives", "passed": "true_negatives",
                  }  # fmt: skip
LARGEST_JSON, LARGEST_LAYER = 2**30, 2**25  # bytes: a million images, and far more than a picture of 384 pixels


@dataclass(frozen=True)
class Record:
    """What `evaluate` wrote into `folder`.

    metrics, images, unread, curves, config : of metrics.json, as `model.Evaluation.to_dict` gives them.
    facts : report.json (`report.record.write_record`).

    All of it has passed `schema`: numbers are finite numbers, text is printable, lists are as long as they should be.
    """

    folder: Path
    metrics: dict[str, Any]
    images: list[dict[str, Any]]
    curves: dict[str, Any]
    config: dict[str, Any]
    facts: dict[str, Any]
    unread: list[dict[str, Any]]

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
    version = facts.get("format_version")
    if version == 1:
        metrics, facts = _from_version_1(metrics, facts)
    elif version != FORMAT_VERSION:
        raise DataError(f"{folder / FILE}: format version {version!r}, this version reads 1 to {FORMAT_VERSION}")
    record = Record(folder=folder, facts=_checked(folder / FILE, facts, schema.FACTS),
                    **_checked(folder / METRICS, metrics, schema.METRICS))  # fmt: skip
    if not record.images:
        raise DataError(f"{folder / METRICS}: no images")
    layers = record.facts["layers"]
    if len(layers) != len(record.images):
        raise DataError(f"{folder}: {len(record.images)} images but {len(layers)} sets of layers")
    for layer in layers:
        for name in filter(None, layer.values()):
            _check_layer(folder, name)
    return record


def _from_version_1(metrics: dict[str, Any], facts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both files with the names of today. What is no object or list stays, for the check that follows."""

    def renamed(value: Any) -> Any:
        return {FROM_VERSION_1.get(k, k): v for k, v in value.items()} if isinstance(value, dict) else value

    def rows(value: Any) -> Any:
        return [renamed(row) for row in value] if isinstance(value, list) else value

    new = {"metrics": renamed(metrics.get("metrics")), "images": rows(metrics.get("images"))}
    return metrics | new, facts | {"defect_types": rows(facts.get("defects"))}


def _checked(path: Path, content: dict[str, Any], check: schema.Check) -> dict[str, Any]:
    try:
        found: dict[str, Any] = check(content, "")
    except (KeyError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: does not hold what evaluate writes ({what})") from error
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: missing; give the folder that `patchcore-fast evaluate DATA --output DIR` wrote")
    if path.stat().st_size > LARGEST_JSON:
        raise DataError(f"{path}: damaged, {path.stat().st_size:,} bytes are more than evaluate writes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged, no JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: a JSON object is wanted, got a {type(found).__name__}")
    return found


def _check_layer(folder: Path, name: str) -> None:
    """A layer is a file of this folder: a record from elsewhere must not pull other files of the reader into a page."""
    file, called = folder / name, printable(name if len(name) < 100 else name[:97] + "...")
    if "\0" not in name and not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise DataError(f"{folder}: the layer {called} lies outside of the folder")
    if "\0" in name or not os.path.isfile(file):  # which is False for names that no file can have, and loops of links
        raise DataError(f"{folder}: the layer {called} is missing; evaluate writes it")
    if (size := file.stat().st_size) > LARGEST_LAYER:
        raise DataError(f"{folder}: the layer {called} is damaged, {size:,} bytes are more than evaluate writes")
