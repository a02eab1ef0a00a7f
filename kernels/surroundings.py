"""What a caller has set around a call does not reach its answers: threads, forks, autocast, gradients, subnormals.

torch keeps such settings by thread or for the whole process, and users have good reasons to change them. The public
functions of this package run `undisturbed`: each setting that matters is put right for the time of the call, if it
needs to be, and put back afterwards.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from .processors import usable_processors

_F = TypeVar("_F", bound=Callable[..., Any])
_DEVICES = ("cpu", "cuda")  # whose autocast could reach us
_LEAST_NORMAL = 2.0**-1022
_FORKED = 0x40  # PF_FORKNOEXEC in Linux: include/linux/sched.h
_A_THREAD = 1 << 15  # elements from which torch gives an elementwise operator another thread
_log = logging.getLogger("patchcore_fast")


class Undisturbed:
    """A block that the caller's settings do not reach; see `undisturbed`. Blocks may be nested."""

    def __enter__(self) -> Undisturbed:
        """Put right what is not; the least is done where all is well, as in a block inside another."""
        self._undo: list[Callable[[], Any]] = []
        try:
            self._enter()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Put everything back, the last change first."""
        while self._undo:
            self._undo.pop()()

    def _enter(self) -> None:
        if torch.is_grad_enabled():
            self._with(torch.no_grad())
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                self._with(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            self._with(torch.device("cpu"))
        _precision.enter()
        self._undo.append(_precision.leave)
        if _threads.outermost():
            self._undo.append(_threads.forget)
            _threads.count = self._bound_threads()
        if _flushes():
            torch.set_flush_denormal(False)
            self._undo.append(lambda: torch.set_flush_denormal(True))
            # Threads of torch's pool keep what was set when they were made, for good.
            if torch.get_num_threads() > 1 and not _pool_keeps_subnormals():
                self._set_threads(1)

    def _with(self, context: Any) -> None:
        context.__enter__()
        self._undo.append(lambda: context.__exit__(None, None, None))

    def _bound_threads(self) -> int:
        """No more threads for torch than processors, and one where its pool is dead; how many the engine may have."""
        wanted = _after_fork() or torch.get_num_threads()
        count = min(wanted, usable_processors())
        if torch.get_num_threads() > count:
            self._set_threads(count)
        return count

    def _set_threads(self, count: int) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        self._undo.append(lambda: torch.set_num_threads(before))


def undisturbed(function: _F) -> _F:
    """A function, or a generator from step to step, that runs as torch comes, whatever is set around it.

    * torch's operators have at most as many threads as this process may keep busy (`processors`); in a child made by
      fork one, for good, since OpenMP's threads do not survive a fork and operators would wait for them for ever.
    * No autocast, no TensorFloat-32 or bfloat16 in matrix products (and on the CPU in convolutions) of float32.
    * No gradients are recorded; results do not require any.
    * Tensors are made on the CPU where no device is named (`torch.set_default_device`).
    * Subnormal numbers count (`torch.set_flush_denormal`), if need be on one thread.

    Under torch.compile and torch.export the function is traced as it is.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **named: Any) -> Any:
            inner = function(*args, **named)
            try:
                while True:
                    with Undisturbed():
                        try:
                            item = next(inner)
                        except StopIteration:
                            return
                    yield item
            finally:
                inner.close()

        return cast(_F, steps)

    @functools.wraps(function)
    def whole(*args: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **named)
        with Undisturbed():
            return function(*args, **named)

    return cast(_F, whole)


def engine_threads() -> int:
    """Threads for an engine that has its own: torch's number, but no more than processors that may be used."""
    if _threads.count:
        return _threads.count
    return min(_after_fork() or torch.get_num_threads(), usable_processors())


class _Threads(threading.local):
    """Of the outermost block of this thread: how many threads the engine may have; 0 outside."""

    count = 0
    process = 0

    def outermost(self) -> bool:
        before, self.process = self.process, os.getpid()
        return self.count == 0 or before != self.process  # a child may be made inside a block

    def forget(self) -> None:
        self.count = 0


def _forked_with_torch() -> bool:
    """Whether this process was forked, and runs no other program since, from one that has loaded torch."""
    try:
        flags = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[6])  # proc_pid_stat(5)
        return bool(flags & _FORKED) and b"libtorch" in Path(f"/proc/{os.getppid()}/maps").read_bytes()
    except (OSError, ValueError, IndexError):  # no Linux, or the parent is another's or gone
        return False


_threads = _Threads()
_here = 0 if _forked_with_torch() else os.getpid()  # the process whose torch has its threads, as far as we know
_inherited = 0  # in a child of a fork: torch's number of threads when it was first asked


def _after_fork() -> int:
    """0, but in a child of a fork the number of threads that torch had. It is left with one.

    Pools of OpenMP belong to the parent's threads: a child that enters a parallel region waits for ever (pytorch
    issue 17199). Our own threads begin and end with a job, so they may be as many as before.
    """
    global _here, _inherited
    if os.getpid() != _here:
        _here, count = os.getpid(), torch.get_num_threads()
        _inherited = max(_inherited, count)
        if count > 1:
            _log.warning(
                "this process was forked: torch runs on one thread in it, as its %d threads did not come along "
                '(multiprocessing.get_context("spawn") gives processes that have them)',
                count,
            )
    if _inherited > 1 and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    return _inherited


def _flushes() -> bool:
    """Whether this thread takes subnormal numbers for zero: Python's own arithmetic tells."""
    return _LEAST_NORMAL * 0.5 == 0.0


@functools.cache
def _subnormals(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.int32, device="cpu").view(torch.float32)


def _pool_keeps_subnormals() -> bool:
    values = _subnormals(_A_THREAD * torch.get_num_threads())
    return bool((values.to(torch.float64) > 0).all())


class _Precision:
    """Matrix products in true float32 while any thread is inside: the error bounds of rounding.py assume it.

    torch's switches are global to the process, so they are left alone unless they allow less than float32; then the
    first of several threads changes them and the last one to leave puts them back.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._restore: list[tuple[Any, str]] = []
        self.new_lock()

    def new_lock(self) -> None:
        """In a child of a fork: another thread of the parent may have held the old one."""
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self._forbid_less()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._allow_what_was_allowed()

    def _forbid_less(self) -> None:
        cpu = torch.backends.mkldnn
        backends: list[Any] = [torch.backends.cuda.matmul, getattr(cpu, "matmul", None), getattr(cpu, "conv", None)]
        switches = [b for b in backends if hasattr(b, "fp32_precision")]
        for b in switches:
            if b.fp32_precision not in ("none", "ieee"):
                self._restore.append((b, b.fp32_precision))
                b.fp32_precision = "ieee"
        if not switches and torch.get_float32_matmul_precision() != "highest":  # torch before 2.9
            self._restore.append((None, torch.get_float32_matmul_precision()))
            torch.set_float32_matmul_precision("highest")

    def _allow_what_was_allowed(self) -> None:
        for switch, value in reversed(self._restore):
            if switch is None:
                torch.set_float32_matmul_precision(value)
                continue
            # "none" inherits from the parent switch; the value is pinned only where it was set here itself.
            switch.fp32_precision = "none"
            if switch.fp32_precision != value:
                switch.fp32_precision = value
        self._restore.clear()


_precision = _Precision()
os.register_at_fork(after_in_child=_precision.new_lock)
