"""Summary of a scan: what was used, what was passed over and why, what looks wrong; as text, JSON and warnings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

IN_LINE, IN_LIST, IN_JSON = 3, 5, 200  # how many names of a finding are written there


class Kind(NamedTuple):
    """A kind of finding: whether it is a warning, and its text for one and for `{n}` of them."""

    is_warning: bool
    one: str
    many: str


KINDS = {
    # warnings: wrong, or may well be
    "left out": Kind(True, "1 image is anomalous and is left out of training", "{n} images are anomalous and are left "
                     "out of training"),
    "not normal": Kind(True, "1 folder lies beside a folder of normal images, and its images are taken for normal too",
                       "{n} folders lie beside a folder of normal images, and their images are taken for normal too"),
    "no class": Kind(True, "1 image lies in no class folder and has no mask: normal or anomalous is not known, so it "
                     "is not used", "{n} images lie in no class folder and have no mask: normal or anomalous is not "
                     "known, so they are not used"),
    "not in good": Kind(True, "1 training image is not in train/good and is not used",
                        "{n} training images are not in train/good and are not used"),
    "not used": Kind(True, "1 folder or file beside train and test is not used",
                     "{n} folders and files beside train and test are not used"),
    "mask missing": Kind(True, "1 anomalous image has no mask, while others have",
                         "{n} anomalous images have no mask, while others have"),
    "mask unused": Kind(True, "1 mask belongs to no image", "{n} masks belong to no image"),
    "masks": Kind(True, "1 image has several masks that differ, none is used",
                  "{n} images have several masks that differ, none is used"),
    "mask shared": Kind(True, "1 mask fits several images, it is used for none",
                        "{n} masks fit several images, they are used for none"),
    "mask empty": Kind(True, "1 anomalous image has a mask that marks nothing, it is not used",
                       "{n} anomalous images have masks that mark nothing, they are not used"),
    "mask full": Kind(True, "1 mask marks every pixel", "{n} masks mark every pixel"),
    "mask of normal": Kind(True, "1 image in a folder of normal ones has a mask that marks something",
                           "{n} images in folders of normal ones have masks that mark something"),
    "mask size": Kind(True, "1 mask is not of the size of its image", "{n} masks are not of the size of their images"),
    "unreadable": Kind(True, "1 file cannot be read as an image", "{n} files cannot be read as images"),
    "mask name": Kind(True, "1 file or folder is called like masks but holds photographs, which are used as images",
                      "{n} files and folders are called like masks but hold photographs, which are used as images"),
    "drawn": Kind(True, "1 image has the look of a mask", "{n} images have the look of masks"),
    "same split": Kind(True, "1 file is in train and in test", "{n} files are in train and in test"),
    "same class": Kind(True, "1 file is among the normal and among the anomalous images",
                       "{n} files are among the normal and among the anomalous images"),
    "closed": Kind(True, "1 folder cannot be opened", "{n} folders cannot be opened"),
    "no file": Kind(True, "1 image is a link to nowhere, or no file",
                    "{n} images are links to nowhere, or no files"),
    "format": Kind(True, "1 picture is of a format that is not read", "{n} pictures are of formats that are not read"),
    # remarks: worth knowing
    "same": Kind(False, "1 file is there twice", "{n} files are there more than once"),
    "points": Kind(False, "1 depth image is passed over", "{n} depth images are passed over"),
    "mask beside": Kind(False, "1 mask lies beside its image", "{n} masks lie beside their images"),
    "sizes": Kind(False, "images are of 1 size", "images are of {n} sizes"),
    "modes": Kind(False, "images are of 1 colour mode", "images are of {n} colour modes"),
    "list": Kind(False, "a meta.json is there and is not used: folders named train and test go before it, unless it is "
                 "given by its name", "{n} meta.json are there and are not used"),
    "link": Kind(False, "1 folder was seen already under another name", "{n} folders were seen already under other "
                 "names"),
    "written": Kind(False, "1 file was written by an earlier run", "{n} files were written by earlier runs"),
    "litter": Kind(False, "1 hidden or system entry", "{n} hidden or system entries"),
    "other": Kind(False, "1 file is no image", "{n} files are no images"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found: `names` of it, relative to the folder."""

    kind: str
    names: tuple[str, ...]

    @property
    def is_warning(self) -> bool:
        """Whether it may be a mistake or changes results; the others are remarks, shown on demand."""
        return KINDS[self.kind].is_warning

    def message(self) -> str:
        """What was found and how often, without names."""
        n = len(self.names)
        return KINDS[self.kind].one if n == 1 else KINDS[self.kind].many.format(n=f"{n:,}")

    def examples(self, count: int = IN_LIST) -> list[str]:
        """The first names, and how many there are more."""
        more = len(self.names) - count
        return [*self.names[:count], *([f"and {more:,} more"] if more > 0 else [])]

    def text(self) -> str:
        """One line."""
        return f"{self.message()}: {', '.join(self.examples(IN_LINE))}"


@dataclass(frozen=True)
class ScanSummary:
    """What a scan found in a folder.

    folder : its name, of a list the class.  layout : "mvtec", "plain", "list" or "images" (to be scored).
    images : part ("train", "test", "images") -> class -> count of the images used.
    masks : count of those used.
    findings : all else, warnings first.
    """

    folder: str = ""
    layout: str = "plain"
    images: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    masks: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """One line for each kind of thing that changes results or may be a mistake."""
        return [f.text() for f in self.findings if f.is_warning]

    def text(self, verbose: bool = True) -> str:
        """For people: counts, then what is wrong; with `verbose` also what is only worth knowing."""
        lines = [f"{self.folder} ({LAYOUTS[self.layout]})"]
        for part, classes in self.images.items():
            total = sum(classes.values())
            kinds = ", ".join(f"{name} {n:,}" for name, n in classes.items()) if list(classes) != [""] else ""
            lines.append(f"  {PARTS[part]:<16} {total:>6,}" + (f"   {kinds}" if kinds else ""))
        if "test" in self.images or self.masks:
            lines.append(f"  {'masks':<16} {self.masks:>6,}")
        warned = [f for f in self.findings if f.is_warning]
        for finding in (*warned, *(f for f in self.findings if verbose and not f.is_warning)):
            lines += [
                f"  {'!' if finding.is_warning else '-'} {finding.message()}",
                *(f"      {n}" for n in finding.examples()),
            ]
        if not warned:
            lines.append("  nothing looks wrong")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; of very many names the first."""
        findings = [
            {
                "kind": f.kind,
                "warning": f.is_warning,
                "text": f.text(),
                "count": len(f.names),
                "names": list(f.names[:IN_JSON]),
            }
            for f in self.findings
        ]
        images = {part: dict(classes) for part, classes in self.images.items()}
        return {"folder": self.folder, "layout": self.layout, "images": images, "masks": self.masks,
                "findings": findings}  # fmt: skip


LAYOUTS = {
    "mvtec": "MVTec layout",
    "plain": "a folder of normal images",
    "list": "listed in meta.json",
    "images": "images to be scored",
}
PARTS = {"train": "training images", "test": "test images", "images": "images"}


class Notes:
    """Collects findings during a scan."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, dict[str, str]] = {}  # kind -> name -> reason, "" for none

    def add(self, kind: str, path: Path | str, *, why: str = "") -> None:
        """Note a file or folder, once, with the reason where there is one."""
        self._names.setdefault(kind, {}).setdefault(self.name(path), relative_name(why, self.root))

    def name(self, path: Path | str) -> str:
        """A file's name relative to the folder that is scanned."""
        return relative_name(path, self.root)

    def extend(self, kind: str, paths: Iterable[Path]) -> None:
        """Note many."""
        for path in paths:
            self.add(kind, path)

    def findings(self) -> tuple[Finding, ...]:
        """All of them in the order of KINDS."""
        return tuple(
            Finding(kind, tuple(f"{name} ({why})" if why else name for name, why in self._names[kind].items()))
            for kind in KINDS
            if kind in self._names
        )

    def summary(self, layout: str, images: Mapping[str, Iterable[str]], masks: int, name: str = "") -> ScanSummary:
        """The summary of all findings so far; `images` are the classes of the images used, by part; `name` is of the
        set where it is not the folder's."""
        counted = {part: dict(Counter(classes)) for part, classes in images.items()}
        folder = relative_name(name or self.root.resolve().name or str(self.root), self.root)
        return ScanSummary(folder, layout, {p: c for p, c in counted.items() if c}, masks, self.findings())


def relative_name(path: Path | str, root: Path) -> str:
    """A path relative to `root`, in one line of printable characters."""
    text = str(path)
    if isinstance(path, Path):
        text = path.relative_to(root).as_posix() if path.is_relative_to(root) else os.fspath(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
