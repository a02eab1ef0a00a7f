"""Data sets that a meta.json lists, as ADer and its forks read them (docs/ader.md).

{"train": {CLASS: [{"img_path", "mask_path", "cls_name", "specie_name", "anomaly"}, ...]}, "test": {...}}, with paths
relative to the file's folder. A class of it has a path of its own, META.JSON/CLASS, which all that reads a folder of
images takes. The file may come from a stranger: it names no file outside of its folder, and nothing of it is guessed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from patchcore_fast.config.base import nearest
from patchcore_fast.data.conventions import META, is_litter, is_normal
from patchcore_fast.data.folders import ImageRecord, ImageSet, Reader
from patchcore_fast.data.pairs import part_name
from patchcore_fast.data.sanity import find_duplicates
from patchcore_fast.data.summary import Notes
from patchcore_fast.errors import DataError
from patchcore_fast.names import printable

SUFFIX = ".json"
PARTS = ("train", "test")
LARGEST = 1 << 28  # bytes: more than a million images
NAMED = 3  # files in a message
_TYPES = {"img_path": str, "mask_path": str, "cls_name": str, "specie_name": str}


class Entry(NamedTuple):
    """One image of a list; mask is None where there is none, defect "" for a normal image."""

    image: Path
    mask: Path | None
    anomalous: bool
    defect: str


def list_of(path: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """(file, class) where a path means a list: META.JSON, META.JSON/CLASS, or a folder with a meta.json and no sets in
    MVTec layout, which go before it. The class is "" for all. None for other paths.

    Raises
    ------
    DataError : a folder that cannot be opened.
    """
    path = Path(path)
    if path.suffix == SUFFIX and os.path.isfile(path):
        return path, ""
    if path.parent.suffix == SUFFIX and os.path.isfile(path.parent):
        return path.parent, path.name
    file = path / META
    return (file, "") if os.path.isfile(file) and not set_folders(path) else None


def set_folders(top: Path) -> list[Path]:
    """A folder where it has a part train or test itself, else those of its sub-folders that have, by name.

    Raises
    ------
    DataError : one that cannot be opened.
    """
    try:
        inside = sorted(p for p in top.iterdir() if p.is_dir() and not is_litter(p.name))
        if any(part_name(p.name) for p in inside):
            return [top]
        return [p for p in inside if any(q.is_dir() and part_name(q.name) for q in p.iterdir())]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be opened ({error.strerror})") from error


def classes_of(file: Path) -> list[str]:
    """The classes of a list, by name. DataError: the file cannot be read, or is no such list."""
    found = _read(file)
    return sorted({name for part in PARTS for name in found.get(part, {})})


def entries_of(file: Path, name: str) -> dict[str, list[Entry]]:
    """Part ("train", "test") -> entries of a class, sorted by path, as the files of a folder are.

    Raises
    ------
    DataError : as `classes_of`; no such class, one that a part has not while it has others, or a wrong entry.
    """
    found = _read(file)
    known = sorted({c for part in PARTS for c in found.get(part, {})})
    if name not in known:
        raise DataError(f"{file}: has no class {printable(name)}{nearest(name, known)}; it has {_some(known)}")
    entries: dict[str, list[Entry]] = {}
    for part in PARTS:
        if part in found and name not in found[part]:
            other = next(p for p in PARTS if p != part)
            raise DataError(f"{file}: the class {printable(name)} is in {other} and not in {part}")
        listed = found.get(part, {}).get(name, [])
        where = f"{file}: {part}.{printable(name)}"
        if not isinstance(listed, list):
            raise DataError(f"{where} must be a list of images, got a {type(listed).__name__}")
        entries[part] = [_entry(file.parent, e, name, f"{where}[{i}]") for i, e in enumerate(listed)]
        entries[part].sort(key=lambda e: e.image)
        for one, next_ in zip(entries[part], entries[part][1:], strict=False):
            if one.image == next_.image:
                raise DataError(f"{where} names an image twice: {printable(str(one.image.relative_to(file.parent)))}")
    return entries


def read_meta(file: Path, name: str, strict: bool = True, notes: Notes | None = None) -> ImageSet:
    """The class of a list as `folders.read_folder` gives a folder; "" is the only class of the file.

    Anomalous images among those for training are left out, with a warning. Masks of normal training images are not
    looked at.

    Raises
    ------
    DataError : as `entries_of`; several classes and none named, files that are not there, or, if `strict`, a mask whose
        size is not its image's.
    """
    root = file.parent
    if not name:
        name, *others = classes_of(file)
        if others:
            raise DataError(f"{file}: holds {len(others) + 1:,} classes ({_some([name, *others])}); give one of them: "
                            f"{file / name}")  # fmt: skip
    entries = entries_of(file, name)
    given = [p for part in entries.values() for e in part for p in (e.image, e.mask) if p is not None]
    if gone := [p for p in given if not os.path.isfile(p)]:
        said = _some([str(p.relative_to(root)) for p in gone])
        raise DataError(f"{file}: the class {printable(name)} names files that are not there ({len(gone):,}): {said}")
    notes = notes or Notes(root)
    notes.extend("left out", (e.image for e in entries["train"] if e.anomalous))
    reader = Reader(root, notes, strict)
    train = [ImageRecord(e.image, 0, "good") for e in entries["train"] if not e.anomalous]
    reader.look([r.path for r in train] + [e.image for e in entries["test"]],
                {e.image: e.mask for e in entries["test"] if e.mask is not None})  # fmt: skip
    test = reader.judged([(e.image, e.defect if e.anomalous else "good") for e in entries["test"]])
    notes.extend("same split", sorted({r.path for r in train} & {r.path for r in test}))
    find_duplicates([(r.path, part, r.label) for part, rs in (("train", train), ("test", test)) for r in rs], notes)
    classes = {"train": [r.defect for r in train], "test": [r.defect for r in test]}
    masks = sum(r.mask is not None for r in test)
    return ImageSet(root, train, test, "list", notes.summary("list", classes, masks, name))


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """The parts of a list: "train", "test" or both, each a dict by class."""
    try:
        if file.stat().st_size > LARGEST:
            raise DataError(f"{file}: {file.stat().st_size:,} bytes are more than a list of images has")
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is no JSON ({error})") from error
    wanted = 'wanted: {"train": {CLASS: [{"img_path": ...}, ...]}, "test": ...} (docs/ader.md)'
    if not isinstance(found, Mapping) or not any(part in found for part in PARTS):
        raise DataError(f"{file}: is no list of a data set; {wanted}. Move it away if it is something else")
    for part in PARTS:
        if not isinstance(found.get(part, {}), Mapping):
            raise DataError(f"{file}: {part} must hold lists of images by class, got a {type(found[part]).__name__}")
        for name in found.get(part, {}):
            if name in ("", ".", "..") or any(c in name for c in "/\\\0") or is_litter(name):
                raise DataError(
                    f"{file}: a class cannot be called {printable(name)!r}: results get a folder of its name"
                )
    if not any(found.get(part) for part in PARTS):
        raise DataError(f"{file}: lists no class; {wanted}")
    return {part: dict(found[part]) for part in PARTS if part in found}


def _entry(root: Path, value: Any, name: str, where: str) -> Entry:
    if not isinstance(value, Mapping):
        raise DataError(f'{where} must be {{"img_path": ..., "anomaly": ...}}, got a {type(value).__name__}')
    for key in ("img_path", "anomaly"):
        if key not in value:
            raise DataError(f"{where} has no {key}")
    for key, kind in _TYPES.items():
        if not isinstance(value.get(key) or "", kind):
            raise DataError(f"{where}.{key} must be text, got {printable(repr(value[key])[: NAMED * 20])}")
    anomaly = value["anomaly"]
    if isinstance(anomaly, bool) or anomaly not in (0, 1):
        raise DataError(f"{where}.anomaly must be 0 or 1, got {printable(repr(anomaly)[: NAMED * 20])}")
    if value.get("cls_name") not in (None, "", name):
        raise DataError(f"{where}.cls_name is {printable(value['cls_name'])!r} in the class {printable(name)}")
    mask = value.get("mask_path") or ""
    specie = value.get("specie_name") or ""
    defect = "" if not anomaly else "defect" if not specie or is_normal(specie) else printable(specie)
    return Entry(_inside(root, value["img_path"], f"{where}.img_path"),
                 _inside(root, mask, f"{where}.mask_path") if mask else None, bool(anomaly), defect)  # fmt: skip


def _inside(root: Path, text: str, where: str) -> Path:
    """A file below the folder of the list, by its name alone: links that lie there are the owner's."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    absolute = text.startswith(("/", "\\")) or text[1:2] == ":"
    if absolute or not parts or "\0" in text or ".." in text.replace("\\", "/").split("/"):
        raise DataError(f"{where} must be a path below the folder of the list, got {printable(text[:100])!r}")
    return root.joinpath(*parts)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(printable(n) for n in names[:NAMED]) + more
