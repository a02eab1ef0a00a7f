"""What a run over many categories leaves of each, so that the next run takes it instead of working again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchcore_fast.config import flat

if TYPE_CHECKING:
    from patchcore_fast.config import PatchCoreConfig
    from patchcore_fast.config.methods import MethodConfig

FILE, FORMAT, VERSION = "category.json", "patchcore_fast.category", 1
NUMBERS = "metrics.json"  # of `evaluate`: another evaluation into the same folder changes it
SAID = 3  # settings that differ, in a message


def identity(
    config: PatchCoreConfig | MethodConfig, decided: Mapping[str, float], weights: str, data: str
) -> dict[str, Any]:
    """All that decides the numbers of a category: settings but those that change no result, backbone, files, version.

    Parameters
    ----------
    decided : thresholds that were given instead of the fit's.  weights : fingerprint of the backbone.
    data : `data.categories.files_digest`.
    """
    from patchcore_fast import __version__
    from patchcore_fast.report.tables import to_json

    settings = {name: group for name, group in config.to_dict().items() if name != "running"}
    made: dict[str, Any] = json.loads(to_json({"version": __version__, "settings": settings, "weights": weights,
                                               "data": data, "threshold": None, **decided}))  # fmt: skip
    return made


def keep(folder: Path, made: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Write down that a category is finished, as the last of its files."""
    from patchcore_fast.report.tables import write_json

    write_json(folder / FILE, {"format": FORMAT, "format_version": VERSION, "made": made, "row": row,
                               "numbers": _digest(folder / NUMBERS)})  # fmt: skip


def forget(folder: Path) -> None:
    """The category is about to be evaluated anew."""
    (folder / FILE).unlink(missing_ok=True)


def kept(folder: Path, made: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The row of a category that is finished and was made alike; else None, and what is different ("" for no record).

    The file is our own, but may be damaged or of another version: what does not look right is as if it were not there.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if (found["format"], found["format_version"]) != (FORMAT, VERSION):
            return None, f"its {FILE} is of another version"
        before, row, numbers = dict(found["made"]), dict(found["row"]), found["numbers"]
        if not _is_row(row) or not isinstance(before.get("settings"), dict):
            return None, f"its {FILE} is damaged"
        if numbers != _digest(folder / NUMBERS):
            return None, f"its {NUMBERS} is of another evaluation"
        return (row, "") if before == made else (None, _difference(before, made))
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None, f"its {FILE} cannot be read"


def _is_row(row: Mapping[str, Any]) -> bool:
    metrics, seconds, unread = row.get("metrics"), row.get("seconds"), row.get("unread")
    if not isinstance(metrics, dict) or not isinstance(seconds, dict) or not isinstance(unread, list):
        return False
    if not all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in unread):
        return False
    if type(metrics.get("n_test")) is not int:
        return False
    numbers = [*metrics.values(), *seconds.values()]
    return all(n is None or (type(n) in (int, float) and math.isfinite(n)) for n in numbers)


def _difference(before: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    old, new = flat({"": before.get("settings") or {}}), flat({"": made["settings"]})
    names = [name.lstrip(".") for name in [*new, *(n for n in old if n not in new)] if old.get(name) != new.get(name)]
    if names:
        more = f" and {len(names) - SAID:,} more" if len(names) > SAID else ""
        return f"other settings: {', '.join(names[:SAID])}{more}"
    words = {"threshold": "another --image-threshold", "pixel_threshold": "another --pixel-threshold",
             "weights": "other weights", "data": "other files",
             "version": "another version of patchcore_fast"}  # fmt: skip
    return next((text for key, text in words.items() if before.get(key) != made.get(key)), "other settings")


def digest_of(paths: Iterable[Path]) -> str:
    """Of the contents of several files."""
    return hashlib.sha256("".join(_digest(path) for path in paths).encode()).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
