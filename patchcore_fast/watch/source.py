"""Files of a folder as they come: told by the system (watchdog), or found by looking again and again.

The folder itself is the work list. Events only say where to look first, and are kept up to a limit; what does not fit,
and what the system did not tell, is found by the next walk through the folder, which goes on only as fast as files are
taken. So a burst of any size takes no more memory than a small one.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore_fast.data.conventions import is_image_name, is_litter
from patchcore_fast.errors import DataError
from patchcore_fast.watch.journal import key_of

NOTED = 4096  # events, and files that are still being written, that are kept at most
RESCAN, SHARE = 30.0, 50  # seconds between walks beside events; a walk takes at most one of so many seconds
TICK = 0.1  # seconds until a signal to stop is seen
STEP = 64  # files that are done, past which a walk looks at the clock
UNFINISHED = re.compile(r"[ ._~-](tmp|temp|part|partial|filepart|crdownload|download|writing)$", re.IGNORECASE)
_END = object()
_log = logging.getLogger(__name__)


def is_wanted(name: str) -> bool:
    """Whether a file's name is that of a whole image: not hidden, no litter, nothing that is called unfinished."""
    return is_image_name(name) and not UNFINISHED.search(os.path.splitext(name)[0])


@dataclass(frozen=True)
class Arrival:
    """A whole file that waits for its score.

    name : relative to the folder.  size, mtime_ns : what it was when it was taken.
    arrived : seconds since 1970: when it was closed, moved here or, found by a walk, last changed, but not before the
    walk before that.  tries : how often it could not be read.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int
    arrived: float
    tries: int = 0

    @property
    def key(self) -> bytes:
        """`journal.key_of` it."""
        return key_of(self.name, self.size, self.mtime_ns)

    def is_unchanged(self) -> bool | None:
        """Whether the file is still the one that was taken; None where it is gone."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


class Done:
    """Keys of the files that are done, as far as they are in the folder: 16 bytes each and what a set adds."""

    def __init__(self) -> None:
        """None is."""
        self._known: set[bytes] = set()
        self._missed: set[bytes] = set()  # by the walk before: some file systems leave one out of a list that changes
        self._seen: set[bytes] | None = None  # since a walk began: what it did not meet is gone when it ends

    def __contains__(self, key: bytes) -> bool:
        """Whether it is done; a walk that meets it keeps it."""
        if key not in self._known:
            return False
        if self._seen is not None:
            self._seen.add(key)
        return True

    def __len__(self) -> int:
        """Keys that are held."""
        return len(self._known)

    def add(self, key: bytes) -> None:
        """It is done now."""
        self._known.add(key)
        if self._seen is not None:
            self._seen.add(key)

    def begin(self) -> None:
        """A walk begins."""
        self._seen = set()

    def end(self, whole: bool) -> None:
        """It has ended; if it met all that is there, what it missed for the second time is gone."""
        if whole and self._seen is not None:
            missed = self._known - self._seen
            self._known -= missed & self._missed
            self._missed = missed
        self._seen = None


@dataclass
class _Growing:
    """A file that may still be written."""

    size: int
    mtime_ns: int
    since: float  # monotonic: unchanged from then on
    arrived: float
    tries: int = 0


class Source:
    """Files of a folder and its sub-folders; links to folders are not followed.

    Parameters
    ----------
    folder : that is watched.  output : below it left out, if it lies there.
    done : keys of files that are not wanted any more.
    settle : seconds that a file must not change, where nothing says that it is whole.
    poll : seconds between two looks; None for the system's events, and a walk now and then.
    once : what is there now, and no more.

    Raises
    ------
    OSError : the system gives no more watches.
    """

    def __init__(
        self, folder: Path, output: Path, done: Done, *, settle: float, poll: float | None = None, once: bool = False
    ) -> None:
        """Begin to listen, and plan the first walk."""
        self.folder, self.done, self.settle, self.once = folder, done, settle, once
        self._output, self._poll = output, poll
        self._prefix = os.path.join(folder, "")
        self._events: dict[str, tuple[float, bool]] = {}  # path -> when, and whether it is whole
        self._missed = False
        self._told = threading.Condition()
        self._growing: dict[str, _Growing] = {}
        self._scan: Iterator[None] | None = None
        self._found: list[Arrival] = []
        self._began = self._looked = time.time()
        self._next = 0.0  # monotonic, of the next walk
        self._scans = 0
        self._closed: set[str] = set()  # folders that were named because they cannot be opened
        self._observer = None if once or poll is not None else _observe(folder, self.note)

    def note(self, path: str, whole: bool) -> None:
        """From any thread: something came to `path`; `whole` if its writer has closed or moved it. "" : look anew."""
        with self._told:
            if not path or (len(self._events) >= NOTED and path not in self._events):
                self._missed = True
            else:
                self._events[path] = (time.time(), whole)
            self._told.notify()

    def give_back(self, arrival: Arrival, tries: int) -> None:
        """A file that changed while it was read, or could not be read: it is looked at again when it is quiet."""
        self._growing[str(arrival.path)] = _Growing(
            arrival.size, arrival.mtime_ns, time.monotonic(), arrival.arrived, tries
        )

    def take(self, most: int, stopped: Callable[[], bool]) -> list[Arrival]:
        """Up to `most` files that wait, at once if there is any; else waits for one.

        Empty when `stopped` is true, and with `once` when all are done.

        Raises
        ------
        DataError : the folder is gone. With `poll` it is waited for.
        """
        while True:
            batch = self._ready(most)
            if batch or stopped() or (self.once and self._scans and self._scan is None and not self._growing):
                return batch
            with self._told:
                full, anew = len(self._growing) >= NOTED, self._missed and self._scan is None
                if full or not (self._events or anew or self._scan is not None):
                    self._told.wait(min(TICK, max(self._due() - time.monotonic(), 0.001)))

    def close(self) -> None:
        """End the threads that listen."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    # --- within ------------------------------------------------------------------------------------------------------

    def _due(self) -> float:
        """When there is something to look at, unless an event comes."""
        checks = [g.since + self.settle for g in self._growing.values()]
        return min([*checks, self._next]) if self._scan is None else min([*checks, time.monotonic() + TICK])

    def _ready(self, most: int) -> list[Arrival]:
        batch: dict[str, Arrival] = {}
        for path in [p for p, g in self._growing.items() if time.monotonic() - g.since >= self.settle]:
            if len(batch) == most:
                return list(batch.values())
            self._settled(path, batch)
        while len(batch) < most and len(self._growing) < NOTED:
            with self._told:
                if not self._events:
                    break
                path = next(iter(self._events))
                when, whole = self._events.pop(path)
            if self._is_wanted(path):
                self._look(path, when, whole, batch)
        if self._scan is None and (self._missed or time.monotonic() >= self._next) and not (self.once and self._scans):
            self._missed = False
            self._scan = self._walk()
        until = time.monotonic() + TICK  # what came meanwhile, and signals, do not wait for a whole walk
        while self._scan is not None and len(batch) < most and len(self._growing) < NOTED:
            if next(self._scan, _END) is _END:
                self._scan = None
            for arrival in self._found:
                batch.setdefault(str(arrival.path), arrival)
            self._found.clear()
            if time.monotonic() >= until:
                break
        return list(batch.values())

    def _settled(self, path: str, batch: dict[str, Arrival]) -> None:
        growing, found = self._growing[path], _stat(path)
        if found is None:
            del self._growing[path]
        elif (found.st_size, found.st_mtime_ns) != (growing.size, growing.mtime_ns):
            self._growing[path] = _Growing(found.st_size, found.st_mtime_ns, time.monotonic(), time.time())
        else:
            del self._growing[path]
            self._take(path, found, growing.arrived, batch, growing.tries)

    def _look(self, path: str, arrived: float, whole: bool, batch: dict[str, Arrival]) -> None:
        if (found := _stat(path)) is None:
            self._growing.pop(path, None)
        elif whole:
            self._growing.pop(path, None)
            self._take(path, found, arrived, batch)
        elif path not in self._growing and path not in batch:
            self._growing[path] = _Growing(found.st_size, found.st_mtime_ns, time.monotonic(), arrived)

    def _take(
        self, path: str, found: os.stat_result, arrived: float, batch: dict[str, Arrival], tries: int = 0
    ) -> None:
        arrival = self._arrival(path, found, arrived, tries)
        if arrival.key not in self.done:
            batch[path] = arrival

    def _arrival(self, path: str, found: os.stat_result, arrived: float, tries: int = 0) -> Arrival:
        return Arrival(Path(path), path[len(self._prefix) :], found.st_size, found.st_mtime_ns, arrived, tries)

    def _is_wanted(self, path: str) -> bool:
        """By its name and place, for a path of an event."""
        *folders, name = path[len(self._prefix) :].split(os.sep)
        if not is_wanted(name) or any(is_litter(part) for part in folders):
            return False
        output = os.path.realpath(self._output) + os.sep
        inside = output.startswith(os.path.realpath(self.folder) + os.sep)
        return not (inside and (os.path.realpath(os.path.dirname(path)) + os.sep).startswith(output))

    def _walk(self) -> Iterator[None]:
        """One walk through the folder, to `_found` and `_growing`; gives way after each new file, and now and then."""
        since, spent, now = time.monotonic(), 0.0, time.time()
        before, self._looked = self._looked, now
        closed = len(self._closed)
        self.done.begin()
        identity = _identity(self.folder)
        lost = False

        def refused(path: str, error: OSError) -> None:
            nonlocal lost
            lost = True
            if path == os.fspath(self.folder) and (self._poll is None or self.once):
                raise DataError(f"{path}: cannot be opened any more ({error.strerror})") from error
            if path not in self._closed:
                self._closed.add(path)
                _log.warning("%s: cannot be opened (%s), it is looked at again", path, error.strerror)

        for number, (path, found) in enumerate(files_below(self.folder, self._output, refused), 1):
            if self._meet(path, found, before, now) or number % STEP == 0:
                spent += time.monotonic() - since
                yield
                since = time.monotonic()  # scoring is no part of the walk
        if not lost and closed:
            self._closed.clear()
        # A folder on a drive that went away, or came back as another, was not seen whole: nothing in it is forgotten.
        self.done.end(not lost and identity is not None and identity == _identity(self.folder))
        self._scans += 1
        pause = max(RESCAN, SHARE * (spent + time.monotonic() - since)) if self._poll is None else self._poll
        self._next = time.monotonic() + pause

    def _meet(self, path: str, found: os.stat_result, before: float, now: float) -> bool:
        """Whether a file of a walk is new."""
        arrival = self._arrival(path, found, min(max(found.st_ctime, before), time.time()))
        if arrival.key in self.done or path in self._growing or path in self._events:
            return False
        # The clock of a network drive may be another: there only two looks tell.
        if self._poll is None and now - found.st_mtime >= self.settle:
            self._found.append(arrival)
        else:
            self._growing[path] = _Growing(found.st_size, found.st_mtime_ns, time.monotonic(), arrival.arrived)
        return True


def files_below(
    folder: Path, output: Path, refused: Callable[[str, OSError], None]
) -> Iterator[tuple[str, os.stat_result]]:
    """(path, stat) of every file that is wanted below a folder, but not below `output`; one at a time.

    refused : called with a folder that cannot be opened, and why.
    """
    folders, left_out = [os.fspath(folder)], os.path.realpath(output)
    while folders:
        here = folders.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if is_litter(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if os.path.realpath(entry.path) != left_out:
                            folders.append(entry.path)
                    elif is_wanted(entry.name) and (found := _stat(entry.path)) is not None:
                        yield entry.path, found
        except OSError as error:
            if here == os.fspath(folder) or not isinstance(error, FileNotFoundError):  # else it has just been removed
                refused(here, error)


def keys_below(folder: Path, output: Path) -> set[bytes]:
    """`key_of` all files that are there now. DataError: a folder cannot be opened."""

    def refused(path: str, error: OSError) -> None:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from error

    start = len(os.path.join(folder, ""))
    return {key_of(p[start:], found.st_size, found.st_mtime_ns) for p, found in files_below(folder, output, refused)}


def _observe(folder: Path, note: Callable[[str, bool], None]) -> Any:
    """A running observer of watchdog that calls `note`."""
    from watchdog.events import (
        DirCreatedEvent,
        DirMovedEvent,
        FileClosedEvent,
        FileCreatedEvent,
        FileMovedEvent,
        FileSystemEvent,
        FileSystemEventHandler,
    )
    from watchdog.observers.inotify import InotifyObserver

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            path = os.fsdecode(event.dest_path or "" if isinstance(event, FileMovedEvent) else event.src_path)
            if isinstance(event, FileMovedEvent | FileClosedEvent):
                if path:
                    note(path, True)
            elif isinstance(event, FileCreatedEvent):
                note(path, False)  # a hard link is made and never closed; what is open will be
            else:
                note("", False)

    # "Full" events tell a file that was moved here from elsewhere, which is whole, from one that is being made.
    observer = InotifyObserver(generate_full_events=True)
    kinds: list[type[FileSystemEvent]] = [
        DirCreatedEvent, DirMovedEvent, FileClosedEvent, FileCreatedEvent, FileMovedEvent
    ]  # fmt: skip
    # With the slash also where the folder is given by a link: watchdog would watch the link, and tell nothing.
    observer.schedule(Handler(), os.path.join(folder, ""), recursive=True, event_filter=kinds)
    observer.start()
    return observer


def _stat(path: str) -> os.stat_result | None:
    """Of a regular file, links to one followed."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
