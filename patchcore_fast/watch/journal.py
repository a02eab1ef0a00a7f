"""The journal: what has been scored, on the disk before anybody is told of it.

A file of JSON lines. The first says whose it is; then comes an `Entry` for each image, and after each batch {"said": n}
once the lines of the entries up to n are out. A process may die at any byte: what is not a whole line at the end is cut
off, and entries that were not said are placed and said again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchcore_fast.errors import DataError
from patchcore_fast.files import Appending, atomic_write

FILE = "journal.jsonl"
FORMAT = 1


def key_of(name: str, size: int, mtime_ns: int) -> bytes:
    """What makes a file one that was scored: its name below the folder, its size and its time of change. 16 bytes.

    A file that is written anew under its old name is another one.
    """
    text = os.fsencode(name) + b"\0%d\0%d" % (size, mtime_ns)
    return hashlib.blake2b(text, digest_size=16).digest()


@dataclass(frozen=True)
class Entry:
    """One image, scored or given up.

    Attributes
    ----------
    index : from 1, without gaps.
    name : relative to the folder that is watched.  size, mtime_ns : of the file that was read.
    time : of the verdict, in seconds since 1970.
    score, is_anomalous, threshold : as of `Prediction`; None where there is none.
    heatmap : the picture, relative to the output folder, "" for none.
    error : why it could not be read, or None.
    seconds : "wait" (from its arrival until its batch began), "read", "score" and "draw" (of its whole batch, which
        it had to wait for).
    """

    index: int
    name: str
    size: int
    mtime_ns: int
    time: float
    score: float | None
    is_anomalous: bool | None
    threshold: float | None
    heatmap: str
    error: str | None
    seconds: dict[str, float]

    @property
    def key(self) -> bytes:
        """`key_of` it."""
        return key_of(self.name, self.size, self.mtime_ns)

    @property
    def verdict(self) -> str | None:
        """ "normal", "anomalous" or "unreadable"; None for a score without a threshold."""
        if self.error is not None:
            return "unreadable"
        return None if self.is_anomalous is None else "anomalous" if self.is_anomalous else "normal"


class Journal:
    """The journal of an output folder, held by this process alone.

    Parameters
    ----------
    output : the folder; the journal is begun where there is none.
    folder : that is watched; a journal is of one folder.

    Attributes
    ----------
    count : entries so far.  unsaid : the last of these, whose lines may not have come out.

    Raises
    ------
    DataError : another process has it, it is of another folder, or damaged before its end.
    OSError : what the file system says.
    """

    def __init__(self, output: Path, folder: Path) -> None:
        """Open it; `read` comes next."""
        self.path = output / FILE
        head = {"journal": FORMAT, "folder": os.path.realpath(folder)}
        if not self.path.exists():
            with atomic_write(self.path) as f:
                f.write(_line(head))
        try:
            self._file = Appending(self.path, alone=True)
        except BlockingIOError as error:
            raise DataError(f"{self.path}: another watch is writing here, give another --output") from error
        self.count = 0
        self.unsaid: list[Entry] = []
        try:
            self._check(head)
        except BaseException:
            self.close()
            raise

    def _check(self, head: dict[str, Any]) -> None:
        with open(self.path, "rb") as f:
            found = _parsed(f.readline())
        if found is None or found.get("journal") != FORMAT or not isinstance(found.get("folder"), str):
            raise DataError(f"{self.path}: no journal of this version, give another --output")
        if found["folder"] != head["folder"]:
            raise DataError(f"{self.path}: is the journal of {found['folder']}, give another --output")

    def read(self) -> Iterator[Entry]:
        """All entries, one at a time. At the end `count` and `unsaid` are known, and a cut line is gone.

        Raises
        ------
        DataError : a line that is no JSON, or out of order, and is not the last.
        """
        end, last = 0, 0
        with open(self.path, "rb") as f:
            for number, line in enumerate(f, 1):
                found = _parsed(line)
                if found is None:
                    if f.read(1):
                        raise DataError(f"{self.path}: line {number:,} is damaged; give another --output")
                    break
                end += len(line)
                if number == 1:
                    continue
                try:
                    if "said" in found:
                        self.unsaid = [e for e in self.unsaid if e.index > int(found["said"])]
                        continue
                    entry = Entry(**found)
                except (TypeError, ValueError) as error:
                    raise DataError(f"{self.path}: line {number:,} is damaged; give another --output") from error
                if entry.index != last + 1:
                    raise DataError(f"{self.path}: line {number:,} is entry {entry.index}, {last + 1} is wanted")
                last = entry.index
                self.unsaid.append(entry)
                yield entry
        self._file.cut(end)
        self.count = last

    def add(self, entries: Sequence[Entry]) -> None:
        """Append the entries of a batch, and wait for the disk. OSError: nothing of them is there."""
        self._file.append(b"".join(_line(asdict(entry)) for entry in entries), sync=True)
        self.count += len(entries)
        self.unsaid += entries

    def mark_said(self) -> None:
        """The lines of all entries are out. Not waited for: at worst they are said once more."""
        if self.unsaid:
            self._file.append(_line({"said": self.count}))
            self.unsaid = []

    def close(self) -> None:
        """Let others have it."""
        self._file.close()


def _line(value: dict[str, Any]) -> bytes:
    # ASCII: names of any bytes come back as they were (surrogateescape), and no new line is within.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """None for what is no whole line."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
