"""Moments of a run at which a fault can strike, found through public functions that the program calls anyway."""

from __future__ import annotations

import builtins
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from .place import MARKER

MOMENTS = ("decode", "network", "folder", "create", "flush", "rename")
Step = Callable[[str, Any], None]  # called with the moment and the path (None: unknown), before the real function


def _inside(path: Any) -> bool:
    """Whether a path is in the cell's folder, which is the cwd, and neither temporary nor the optional marker."""
    if not isinstance(path, str | bytes | os.PathLike) or MARKER in os.fsdecode(path):
        return False
    full, here = os.path.abspath(os.fsdecode(path)), os.getcwd()
    return (full + os.sep).startswith(here + os.sep) and not (full + os.sep).startswith(os.path.join(here, "tmp", ""))


@contextmanager
def hooked(step: Step, full: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Call `step` at every moment inside the block.

    full : asked after each file is opened for writing: when true, the file's descriptor leads to /dev/full, where the
        kernel refuses every write, of Python or of C, as a full disk does.
    """
    real_open, real_os_open, real_mkdir = builtins.open, os.open, os.mkdir

    def fill(fd: int) -> None:
        if full():
            device = real_os_open("/dev/full", os.O_WRONLY)
            os.dup2(device, fd)
            os.close(device)

    def os_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        nameless = (
            flags & os.O_TMPFILE == os.O_TMPFILE
        )  # a file in the folder `path`, which gets a name when it is whole
        writes = bool(flags & os.O_CREAT or nameless) and _inside(path)
        if writes:
            step("create", path)
        fd = real_os_open(path, flags, *args, **kwargs)
        if writes:
            fill(fd)
        return fd

    def any_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writes = any(letter in mode for letter in "wxa+") and _inside(file) and kwargs.get("opener") is None
        if writes:
            step("create", file)
        opened = real_open(file, mode, *args, **kwargs)
        if writes:
            fill(opened.fileno())
        return opened

    def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
        if not os.path.isdir(path):  # else the answer is that it is there, whatever else is wrong
            step("folder", path)
        real_mkdir(path, *args, **kwargs)

    def announced(moment: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            step(moment, args[0] if args and isinstance(args[0], str | bytes | os.PathLike) else None)
            return real(*args, **kwargs)

        return call

    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: step("network", None))
    with ExitStack() as stack:
        stack.callback(hook.remove)
        for place, name, new in (
            (os, "open", os_open),
            (builtins, "open", any_open),
            (io, "open", any_open),
            (os, "fsync", announced("flush", os.fsync)),
            (os, "replace", announced("rename", os.replace)),
            (os, "mkdir", mkdir),
            (Image, "open", announced("decode", Image.open)),
        ):
            stack.enter_context(patch.object(place, name, new))
        yield


class Strike:
    """Do `act` when `moment` is met for the `number`-th time (from 1).

    act : given the path, raises or sends a signal; None fills the disk for the file that is then opened.
    lasting : every time from then on, as a read-only file system is; else once.
    """

    def __init__(self, moment: str, number: int, act: Callable[[Any], None] | None, lasting: bool = False) -> None:
        self.moment, self.number, self.act, self.lasting = moment, number, act, lasting
        self.seen: Counter[str] = Counter()
        self.due = self.fired = False

    def __call__(self, moment: str, path: Any) -> None:
        self.seen[moment] += 1
        if moment != self.moment:
            return
        if self.seen[moment] == self.number or (self.lasting and self.seen[moment] > self.number):
            self.fired = True
            if self.act is None:
                self.due = True
            else:
                self.act(path)

    def full(self) -> bool:
        """Whether the file that has just been opened is the one with a full disk."""
        due, self.due = self.due, False
        return due

    @contextmanager
    def active(self) -> Iterator[Strike]:
        """With the hooks in place."""
        with hooked(self, self.full):
            yield self
