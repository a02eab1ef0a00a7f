"""What was measured on this machine, in one JSON file: the winners of autotuning, how long first calls took, and what
the tensor cores answered (probe.py), for the doctor to tell.

The file is a cache and no more: one that cannot be read counts as empty, one that cannot be written is not written, and
what does not fit (another format, a tile that the table does not offer) is left aside.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from patchcore_fast.files import atomic_write

from .tile_table import Tile

FORMAT = 1
SECTIONS = ("tiles", "first_calls")
LATER = ("tensor_cores",)  # not in files of the first releases
_log = logging.getLogger("patchcore_fast.kernels")


def cache_file() -> Path:
    """Where the cache is: in PATCHCORE_FAST_CACHE, else in the user's cache folder. Nothing is made here."""
    if folder := os.environ.get("PATCHCORE_FAST_CACHE"):
        return Path(folder).expanduser() / "triton.json"
    base = os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base else Path("~/.cache").expanduser()
    return home / "patchcore_fast" / "triton.json"


def read(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """The sections of SECTIONS and LATER, each key -> entry; empty where the file is missing or unusable."""
    path = path or cache_file()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("another format")
        sections = {name: found[name] for name in SECTIONS} | {name: found.get(name, {}) for name in LATER}
        if not all(isinstance(s, dict) and all(isinstance(e, dict) for e in s.values()) for s in sections.values()):
            raise ValueError("another layout")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, RecursionError) as e:  # ValueError: no JSON, no UTF-8
        _log.warning("%s is left aside, it will be written anew: %s: %s", path, type(e).__name__, e)
    else:
        return sections
    return {name: {} for name in (*SECTIONS, *LATER)}


def add(section: str, entries: dict[str, dict[str, Any]], path: Path | None = None) -> bool:
    """Put entries into a section beside those in the file; False where it cannot be written."""
    path = path or cache_file()
    found = read(path)
    found[section].update(entries)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "w", encoding="utf-8") as f:
            json.dump({"format": FORMAT, **found}, f, indent=1, sort_keys=True)
    except OSError as e:
        _log.warning("%s cannot be written, measured again next time: %s", path, e.strerror or e)
        return False
    return True


def tile_key(gpu: str, capability: tuple[int, int], triton: str, kernel: str, bucket: int, mode: str) -> str:
    """What a measured tile holds for."""
    return "|".join((gpu, "{}.{}".format(*capability), triton, kernel, str(bucket), mode))


def as_entry(tile: Tile, seconds: float) -> dict[str, Any]:
    """A winner as it stands in the file."""
    return {**asdict(tile), "seconds": seconds}


def as_tile(entry: dict[str, Any] | None, offered: tuple[Tile, ...]) -> Tile | None:
    """The tile of an entry, if the table offers it: what fits and was compiled, whatever stands in the file."""
    if entry is None:
        return None
    return next((t for t in offered if all(entry.get(k) == v for k, v in asdict(t).items())), None)
