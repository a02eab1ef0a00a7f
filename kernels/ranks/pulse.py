"""Which rank has died: each counts in the group's store while it lives, and whose count stands still is gone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

# Seconds between counts; after which one that stands still is missed; that the store may take to answer.
_BEAT, _PATIENCE, _ANSWER = 0.5, 2.5, 1.5
_numbers: Counter[str] = Counter()  # pulses so far, by group: the same on all ranks, which make the same calls


class Pulse:
    """Counts on, in a thread of its own, from entering to leaving."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._rank, self._size = dist.get_rank(group), dist.get_world_size(group)
        name = str(getattr(group, "group_name", ""))
        _numbers[name] += 1
        self._prefix = f"patchcore_fast/{name}/{_numbers[name]}"
        self._blame = f"{self._prefix}/blame"  # where it is written who has died
        self._told: list[int] | None = None  # as it was read
        self._left_word = False
        self._done = threading.Event()
        self._store: Any = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Pulse:
        """Begin to count."""
        if self._size > 1:
            self._store = _store_of_the_default_group()
        if self._store is not None:
            self._beat()
            self._thread = threading.Thread(target=self._run, name="patchcore_fast pulse", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(_BEAT)  # it may wait for a store that is gone

    def lost(self) -> list[int] | None:
        """The ranks whose count stands still, or None where the store cannot be asked. Takes some seconds.

        The first rank that finds out leaves word, which the others read with their next count: by the time that they
        miss it, it has stopped counting itself, and if it is rank 0 the store may have gone with it.
        """
        if self._store is None:
            return None
        if self._told is not None:
            return self._told
        found: list[list[int] | None] = [None]

        def ask() -> None:
            with suppress(RuntimeError):
                found[0] = self._ask()

        # A store on a machine that is gone is waited for, whatever timeout it has.
        asking = threading.Thread(target=ask, name="patchcore_fast lost", daemon=True)
        asking.start()
        asking.join(_PATIENCE + _ANSWER)
        if self._left_word:
            time.sleep(2 * _BEAT)  # this process may end, and the store with it, before the others have read it
        return found[0]

    def _ask(self) -> list[int]:
        if (told := self._read_blame()) is not None:
            return told
        before, still = self._counts(), set(range(self._size))
        end = time.monotonic() + _PATIENCE
        while still and time.monotonic() < end:
            time.sleep(_BEAT / 2)
            now = self._counts()
            still -= {rank for rank in still if now[rank] != before[rank]}
        if still:
            self._store.set(self._blame, " ".join(map(str, sorted(still))))
            self._left_word = True
        return sorted(still)

    def _read_blame(self) -> list[int] | None:
        if not self._store.check([self._blame]):
            return None
        return [int(rank) for rank in self._store.get(self._blame).decode().split()]

    def _counts(self) -> list[int]:
        return [self._store.add(f"{self._prefix}/{rank}", 0) for rank in range(self._size)]

    def _beat(self) -> None:
        self._store.add(f"{self._prefix}/{self._rank}", 1)

    def _run(self) -> None:
        while not self._done.wait(_BEAT):
            try:
                self._beat()
                self._told = self._told or self._read_blame()
            except RuntimeError:  # the store is gone: exchanges will fail as well
                return


def _store_of_the_default_group() -> Any:
    """A connection of our own to the store that the ranks met in: c10d's own may be waiting for something."""
    from torch.distributed import distributed_c10d

    find = getattr(distributed_c10d, "_get_default_store", None)  # there is no public way to it
    if find is None:
        return None
    store = find()
    if not hasattr(store, "clone"):  # a file's, or of an old torch
        return store
    try:
        own = store.clone()
        own.set_timeout(timedelta(seconds=_ANSWER))
        return own
    except (RuntimeError, NotImplementedError):
        return store
