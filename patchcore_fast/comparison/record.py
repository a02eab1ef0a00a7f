"""What a finished cell leaves, so that the next run takes it: by settings, weights, files, and version."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchcore_fast.report.comparison import COSTS, METRICS
from patchcore_fast.report.tables import to_json, write_json

FORMAT, VERSION = "patchcore_fast.comparison_cell", 1


def identity(
    method: str, settings: Mapping[str, Any], weights: str, data: str, threads: int, foreign: str | None
) -> dict[str, Any]:
    """All that decides the numbers of a cell. Settings of the running too: seconds and memory hang on them.

    Parameters
    ----------
    weights : fingerprint of the backbone.  data : `data.categories.files_digest`.  foreign : version of anomalib.
    threads : of torch; sums of more threads are rounded otherwise, and a long training may end elsewhere.
    """
    from patchcore_fast import __version__

    made: dict[str, Any] = json.loads(to_json({"version": __version__, "method": method, "settings": settings,
                                               "weights": weights, "data": data, "threads": threads,
                                               "foreign": foreign}))  # fmt: skip
    return made


def write_record(file: Path, made: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a cell, whole; its folder exists. facts : of `worker.measured`, or {"error": why there are none}."""
    write_json(file, {"format": FORMAT, "format_version": VERSION, "made": made, "error": None} | dict(facts))


def read_record(file: Path, made: Mapping[str, Any]) -> dict[str, Any] | None:
    """A cell that was made alike, with its error where it failed; None for none, a damaged one, or one of others."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        same = (found["format"], found["format_version"], found["made"]) == (FORMAT, VERSION, made)
        return dict(found) if same and _is_whole(found) else None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _is_whole(found: Mapping[str, Any]) -> bool:
    if found["error"] is not None:
        return isinstance(found["error"], str)
    numbers = [found["metrics"][name] for name in METRICS] + [found[name] for name in COSTS]
    texts = [*found["unread"], *found["notes"]]
    counts = [found[name] for name in ("train", "test", "anomalous")]
    return (
        all(n is None or (type(n) in (int, float) and math.isfinite(n)) for n in numbers)
        and all(isinstance(text, str) for text in texts)
        and all(type(n) is int for n in counts)
        and isinstance(found["environment"], dict)
    )
