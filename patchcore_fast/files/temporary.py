"""The file that will take a place: without a name where Linux can (nothing is left of it even after kill -9), else
hidden and locked, so that others can tell a living writer's from a dead one's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
from contextlib import suppress
from types import TracebackType

_ACL = "system.posix_acl_access"
_DAY = 86400.0  # seconds after which the unlocked part of another machine is nobody's
_SHARE = 100  # looking for old parts may take one of so many seconds
_OLDER = re.compile(r"\..+\.[0-9a-f]{12}\.part", re.DOTALL)  # of versions before this one, which did not lock
_due: dict[str, float] = {}  # folder -> when it may be looked through again


class Temporary:
    """A file beside the one that `path` names (after all links), for as long as the `with` block lasts.

    Parameters
    ----------
    path : of the file to make or to replace.

    Attributes
    ----------
    fd : its descriptor, which the caller closes.

    Raises
    ------
    OSError : no such folder, or it is not writable; names `path`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Remove what dead processes left in the folder, and open the file."""
        self._path, self._target = os.fspath(path), os.path.realpath(path)
        self._folder = os.path.dirname(self._target)
        self._name: str | None = None
        sweep(self._folder)
        self._old: os.stat_result | None = None
        with suppress(FileNotFoundError):
            self._old = os.stat(self._target)
        # Others must not read the new content while the old file's mode is not set; a new file gets that of open().
        self._mode = 0o666 if self._old is None else 0o600
        try:
            self.fd = self._open()
        except OSError as error:
            text = error.strerror
            if isinstance(error, PermissionError):
                text = f"{text}: a new file is made in {self._folder}, which is not writable"
            raise OSError(error.errno, text, self._path) from error

    def __enter__(self) -> Temporary:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the file, unless it has taken its place."""
        if self._name is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._name)

    def place(self) -> None:
        """Flush to the disk, take mode and owner of the old file, and take its place. OSError names `path`."""
        try:
            os.fsync(self.fd)
            if self._name is None:
                self._give_name()
            assert self._name is not None
            self._keep_rights()
            os.replace(self._name, self._target)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error
        self._name = None

    def _open(self) -> int:
        if hasattr(os, "O_TMPFILE"):
            with suppress(OSError):  # a file system without: the open below says what else is wrong
                fd = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, self._mode)
                if os.path.exists(f"/proc/self/fd/{fd}"):
                    _lock(fd)
                    return fd
                os.close(fd)
        return self._open_named()

    def _open_named(self) -> int:
        while True:
            name = os.path.join(self._folder, f".patchcore-fast-{_machine()}-{secrets.token_hex(6)}.part")
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)
            _lock(fd)
            if os.fstat(fd).st_nlink:  # else another writer took it for a dead one's before it was locked
                self._name = name
                return fd
            os.close(fd)

    def _give_name(self) -> None:
        name = os.path.join(self._folder, f".patchcore-fast-{_machine()}-{secrets.token_hex(6)}.part")
        try:
            # With a folder descriptor Python calls linkat(AT_SYMLINK_FOLLOW), which the absolute path needs.
            self._name = name  # before it is there, so that a signal in between leaves nothing
            os.link(f"/proc/self/fd/{self.fd}", name, src_dir_fd=self.fd)
        except OSError:  # a file system that makes nameless files and gives them no names
            fd = self._open_named()
            try:
                with open(self.fd, "rb", closefd=False) as source, open(fd, "wb", closefd=False) as to:
                    source.seek(0)
                    shutil.copyfileobj(source, to)
                os.dup2(fd, self.fd, inheritable=False)  # with its lock
            finally:
                os.close(fd)
            os.fsync(self.fd)

    def _keep_rights(self) -> None:
        if self._old is None:
            return
        mode, mine = stat.S_IMODE(self._old.st_mode), os.fstat(self.fd)
        owner = (self._old.st_uid, self._old.st_gid)
        if owner != (mine.st_uid, mine.st_gid):
            try:
                os.fchown(self.fd, *owner)
            except PermissionError:
                mode &= 0o777  # set-id bits meant another owner
                try:
                    os.fchown(self.fd, -1, owner[1])
                except PermissionError:  # what its group might, another group may not
                    mode = mode & 0o707 | (mode & 0o007) << 3
        os.fchmod(self.fd, mode)
        if hasattr(os, "getxattr"):
            with suppress(OSError):  # it has none; the mode alone would give the group all that anyone listed may
                os.setxattr(self.fd, _ACL, os.getxattr(self._target, _ACL))


def sweep(folder: str) -> None:
    """Remove the hidden files that dead processes left in a folder; never one that a living process writes.

    A writer holds a lock as long as it lives. The name says on which running machine it is: there an unlocked file is
    dead. Of other machines, on a shared folder, and of older versions, which did not lock, it must also be a day old,
    for not every file system carries locks from one machine to another.
    """
    begin = time.monotonic()
    if begin < _due.get(folder, begin):
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(".part"):
                continue
            own = re.fullmatch(r"\.patchcore-fast-([0-9a-f]{8})-[0-9a-f]{12}\.part", entry.name)
            if own or _OLDER.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_dead(entry.path, 0.0 if own and own[1] == _machine() else _DAY)
    end = time.monotonic()
    if len(_due) > 1000:
        _due.clear()
    _due[folder] = end + _SHARE * (end - begin)


def _remove_dead(path: str, age: float) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and time.time() - found.st_mtime >= age:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its writer lives
            os.unlink(path)
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    with suppress(OSError):  # a file system without locks: then nobody else gets one either, and nothing is removed
        fcntl.flock(fd, fcntl.LOCK_EX)


def _machine() -> str:
    """Eight digits that are another's on another machine, and after a restart."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as f:
            name = f.read()
    except OSError:
        name = platform.node().encode()
    return hashlib.blake2b(name, digest_size=4).hexdigest()
