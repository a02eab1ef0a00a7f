"""Work that goes on in a thread while what came of it is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ahead(Generic[T]):
    """The items of `source`, in their order, of which a thread makes up to `depth` more than were taken.

    What `source` raises is raised where its item would have come. When the loop that takes them ends early, so does the
    thread, behind the item that it is at. It helps where items are made, or used, by code that lets other threads run:
    decoders, NumPy, torch.
    """

    source: Iterable[T]
    depth: int = 1

    def __iter__(self) -> Iterator[T]:
        """Start the thread, and take its items."""
        made: queue.Queue[tuple[bool, Any]] = queue.Queue()  # (True, item), then (False, how it ended: an error, None)
        room, ended = threading.Semaphore(self.depth - 1), threading.Event()

        def make() -> None:
            end: BaseException | None = None
            try:
                for item in self.source:
                    made.put((True, item))
                    room.acquire()
                    if ended.is_set():
                        break
            except BaseException as error:
                end = error
            made.put((False, end))

        thread = threading.Thread(target=make, name="patchcore_fast-ahead", daemon=True)
        thread.start()
        try:
            while (got := made.get())[0]:
                room.release()
                yield got[1]
            if got[1] is not None:
                raise got[1]
        finally:
            ended.set()
            room.release()
            thread.join()
