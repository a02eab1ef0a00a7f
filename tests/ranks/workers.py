"""Processes that are the ranks of a group on this machine, started once, and asked to call a function together."""

from __future__ import annotations

import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..programs import CONTEXT

SIZES = (1, 2, 3, 4, 7)  # of the groups that there are: the first ranks of all
_TIMEOUT = timedelta(seconds=60)


def _send(pipe: Connection, what: Any) -> None:
    """A copy. Connection.send would move tensors into shared memory, away from arrays that are views of them."""
    pipe.send_bytes(pickle.dumps(what))


def _receive(pipe: Connection) -> Any:
    return pickle.loads(pipe.recv_bytes())


def _serve(rank: int, size: int, store: str, pipe: Connection, sizes: tuple[int, ...], timeout: timedelta) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size, timeout=timeout)
    groups = {some: dist.new_group(list(range(some)), timeout=timeout) for some in sizes}
    _send(pipe, "ready")
    while True:
        task = _receive(pipe)
        if task is None:
            break
        function, some, arguments = task
        try:
            _send(pipe, function(groups[some], rank, *arguments))
        except Exception as error:
            error.add_note(traceback.format_exc())
            _send(pipe, error)
    dist.destroy_process_group()


class Workers:
    """`size` processes."""

    def __init__(self, size: int, sizes: tuple[int, ...] = SIZES, timeout: timedelta = _TIMEOUT) -> None:
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name, "store"))
        self.pipes, self.processes = [], []
        for rank in range(size):
            here, there = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_serve, args=(rank, size, store, there, sizes, timeout), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        for pipe in self.pipes:
            assert _receive(pipe) == "ready"

    def ask(self, function: Callable[..., Any], size: int, *arguments: Any) -> None:
        """Have the first `size` ranks call function(group, rank, *arguments)."""
        for pipe in self.pipes[:size]:
            _send(pipe, (function, size, arguments))

    def answers(self, size: int, seconds: float = 120) -> list[Any]:
        """What each of them returned, or the exception that it raised; None of one that died."""
        out: list[Any] = [None] * size
        left = {pipe: rank for rank, pipe in enumerate(self.pipes[:size])}
        while left:
            ready = wait(list(left), timeout=seconds)
            if not ready:
                raise TimeoutError(f"ranks {sorted(left.values())} have not answered in {seconds} s")
            for pipe in ready:
                rank = left.pop(pipe)  # type: ignore[call-overload]
                try:
                    out[rank] = _receive(pipe)  # type: ignore[arg-type]
                except EOFError:
                    continue
        return out

    def call(self, function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
        """Ask, and wait. Raises what a rank has raised."""
        self.ask(function, size, *arguments)
        found = self.answers(size)
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return found

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            try:
                _send(pipe, None)
            except OSError:
                process.kill()
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()
