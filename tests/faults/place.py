"""The folder a cell runs in, what it held before and after, and whether a file is whole."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors
from PIL import Image

from patchcore_fast.cli import main

from ..pictures import texture

TINY = ("--backbone", "resnet10t", "--layers", "1,2", "--weights", "random", "--image-size", "32", "--ratio", "0.1",
        "--workers", "0", "--device", "cpu")  # fmt: skip
SPARE = "spare"  # a second set of each input, outside of what commands read: to see that nothing else is touched


def write_images(root: Path) -> None:
    """MVTec layout with four training images, a normal and an anomalous test image, and its mask."""
    rng = np.random.default_rng(0)
    for name in ("train/good/a", "train/good/b", "train/good/c", "train/good/d", "test/good/e", "test/spot/f"):
        picture = texture(rng, 40)
        if name == "test/spot/f":
            mask = np.zeros((40, 40), np.uint8)
            mask[10:24, 12:26] = 255
            picture[mask > 0] = (250, 240, 40)
            (root / "ground_truth/spot").mkdir(parents=True)
            Image.fromarray(mask).save(root / "ground_truth/spot/f_mask.png")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / f"{name}.png")


def build(root: Path) -> Path:
    """The template that every cell starts from a copy of; its commands run below `root`, which becomes the cwd."""
    write_images(root / "data")
    here = Path.cwd()
    os.chdir(root)
    try:
        assert main(["fit", "data", "--output", "bank.safetensors", *TINY]) == 0
        assert main(["evaluate", "data", "--bank", "bank.safetensors", "--output", "done"]) == 0
        assert main(["extract", "data", "--output", "store", *(o for o in TINY if o not in ("--ratio", "0.1"))]) == 0
        assert main(["cluster", "store", "--clusters", "2", "--output", "clusters.safetensors"]) == 0
        assert main(["select", "store", "--count", "20", "--indices", "picks.safetensors"]) == 0
    finally:
        os.chdir(here)
    np.save(root / "f.npy", np.random.default_rng(1).random((200, 8), dtype=np.float32))
    (root / SPARE).mkdir()
    shutil.copy(root / "bank.safetensors", root / SPARE)
    (root / SPARE / ".mine.part").write_bytes(b"somebody's own file")
    (root / "tmp").mkdir()
    return root


Entry = tuple[str, int, str]  # kind, mode, and the digest, target or device number


def _entry(path: bytes, digest: bool = True) -> Entry:
    found = os.lstat(path)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return "link", 0, os.fsdecode(os.readlink(path))
    if stat.S_ISDIR(found.st_mode):
        return "folder", mode, ""
    if stat.S_ISREG(found.st_mode):
        return "file", mode, hashlib.sha1(_read(path)).hexdigest() if digest else ""
    return stat.filemode(found.st_mode)[0], mode, str(found.st_rdev)


def _read(path: bytes) -> bytes:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if not mode & 0o400:  # a cell may have taken the right to read
        os.chmod(path, mode | 0o400)
        try:
            return Path(os.fsdecode(path)).read_bytes()
        finally:
            os.chmod(path, mode)
    return Path(os.fsdecode(path)).read_bytes()


def snapshot(root: Path) -> dict[str, Entry]:
    """Path below `root` -> what it is; links are not followed."""
    base = os.fsencode(root)
    found = {}
    for folder, folders, files in os.walk(base):
        for name in folders + files:
            path = os.path.join(folder, name)
            found[os.fsdecode(os.path.relpath(path, base))] = _entry(path)
    return found


def changed(before: dict[str, Entry], after: dict[str, Entry]) -> list[str]:
    """Paths that came, went or differ, sorted."""
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


def below(path: str, tops: Iterable[str]) -> bool:
    """Whether `path` is one of `tops` or inside of one."""
    return any(path == top or path.startswith(top + "/") for top in tops)


MARKER = ".patchcore_fast_files"  # says of a folder that it holds results, on purpose


def is_litter(path: str) -> bool:
    """Names that only something unfinished has."""
    name = path.rsplit("/", 1)[-1]
    return (name.startswith(".") and name != MARKER) or name.endswith((".part", ".tmp"))


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def why_broken(name: str, content: bytes) -> str | None:
    """What is wrong with a file that a command wrote, by the suffix of its name; None when it is whole."""
    try:
        suffix = Path(name).suffix
        if suffix == ".safetensors":
            safetensors.deserialize(content)
        elif suffix == ".npy":
            array = np.load(file := io.BytesIO(content), allow_pickle=False)
            assert array.size and not file.read(), "bytes after the array"
        elif suffix == ".json":
            json.loads(content, parse_constant=_no_constant)
        elif suffix == ".csv":
            rows = list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))
            assert len(rows) > 1 and len({len(row) for row in rows}) == 1, "rows of different lengths, or none"
            assert content.endswith(b"\n"), "the last line is cut"
        elif suffix in (".png", ".jpg"):
            Image.open(io.BytesIO(content)).load()
        elif suffix == ".html":
            assert content.rstrip().endswith(b"</html>"), "the end is missing"
        elif suffix == ".pt2":
            assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None, "a member is damaged"
        else:
            assert content, "empty"
    except Exception as error:  # any decoder's own error says that the file is broken
        return f"{type(error).__name__}: {error}"
    return None
