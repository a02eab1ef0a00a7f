"""The ranks of a process group, as the engine talks to them: every call is made by all of them, in the same order.

What is exchanged is small (docs/scale.md). It goes through `torch.distributed`: gloo on CPUs, NCCL on GPUs, started by
torchrun or by whatever else sets the group up.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import RankError
from .pulse import Pulse

_T = TypeVar("_T")
_SHOWN = 20  # most row numbers in a message


class Ranks:
    """A process group in the service of one call of a public function."""

    def __init__(self, name: str, group: Any) -> None:
        """`name` is the public function's, for messages.

        Raises
        ------
        TypeError : no process group.  RuntimeError : torch.distributed is not there or not set up.
        """
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(f"{name}: group= needs torch.distributed.init_process_group to be called first")
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"{name}: group must be a torch.distributed.ProcessGroup such as dist.group.WORLD, "
                f"got {type(group).__name__}"
            )
        self.name, self.group = name, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError(f"{name}: this process is not in the group")
        gloo = "gloo" in str(dist.get_backend_config(group))
        self.device = torch.device("cpu") if gloo else torch.device("cuda", torch.cuda.current_device())
        self.sent = 0  # bytes that this rank has brought into exchanges
        self.seconds = 0.0  # that exchanges took, waiting for slower ranks included
        self.where = "nothing is done yet"  # how far the work has come, for messages

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While inside, a rank that dies can be told from one that is slow."""
        with Pulse(self.group) as self._pulse:
            yield

    def agree(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, which may fail on any rank: then it fails on all.

        Raises
        ------
        Whatever `work` raises here.  RankError : it has failed on another rank.
        """
        error: Exception | None = None
        try:
            result = work()
        except Exception as e:  # told to the others first
            error = e
        said = "" if error is None else f"{type(error).__name__}: {error}"
        words = self.tell(said)
        if error is not None:
            raise error
        for rank, word in enumerate(words):
            if word:
                raise RankError(f"{self.name}: rank {rank} of {self.size} has failed: {word}")
        return result

    def tell(self, value: Any) -> list[Any]:
        """What each rank tells all others, by rank: something small that can be pickled."""
        told: list[Any] = [None] * self.size
        with self._contact():
            dist.all_gather_object(told, value, group=self.group)
        return told

    def same(self, **values: Any) -> None:
        """Refuse arguments that differ between ranks; of tensors of row numbers [S] a digest is compared.

        Raises
        ------
        ValueError : on all ranks.
        """
        told = self.tell({what: _brief(value) for what, value in values.items()})
        for what in values:
            seen = [words[what] for words in told]
            other = next((rank for rank, value in enumerate(seen) if value != seen[0]), None)
            if other is not None:
                raise ValueError(
                    f"{self.name}: {what} must be the same on all ranks, "
                    f"got {seen[0]!r} on rank 0 and {seen[other]!r} on rank {other}"
                )

    def most(self, value: float) -> float:
        """The largest of the ranks' values."""
        return float(self._reduced(torch.tensor([value], dtype=torch.float64), dist.ReduceOp.MAX)[0])

    def sum(self, values: Tensor) -> Tensor:
        """The ranks' values added up, element by element: [*] int64 or float64, on the CPU."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        out = values.to(self.device, copy=True)
        self.sent += out.numel() * out.element_size()
        with self._contact():
            dist.all_reduce(out, how, group=self.group)
        return out.cpu()

    def counts(self, count: int) -> list[int]:
        """How many each rank has."""
        told = torch.zeros(self.size, dtype=torch.int64)
        told[self.rank] = count
        return self.sum(told).tolist()

    def gather(self, rows: Tensor, counts: list[int] | None = None) -> Tensor:
        """The rows of all ranks, in the order of ranks: [R_r, ...] of any type -> [sum of R_r, ...], on the CPU.

        `counts` are the R_r where they are known.
        """
        counts = self.counts(rows.shape[0]) if counts is None else counts
        shape, longest = rows.shape[1:], max(counts)
        width = rows.element_size() * shape.numel()
        if longest * width == 0:
            return rows.new_empty((sum(counts), *shape), device="cpu")
        mine = torch.zeros(longest * width, dtype=torch.uint8, device=self.device)
        if rows.numel():
            mine[: rows.shape[0] * width] = rows.contiguous().reshape(-1).view(torch.uint8).to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        self.sent += mine.numel()
        with self._contact():
            dist.all_gather(parts, mine, group=self.group)
        whole = torch.cat([part[: count * width] for part, count in zip(parts, counts, strict=True)])
        return whole.cpu().view(rows.dtype).view(sum(counts), *shape)

    def trade(self, rows: Tensor, shares: list[int]) -> Tensor:
        """Of the rows [sum of shares, ...] of any type the first shares[0] go to rank 0, the next to rank 1 and so on.

        All ranks give the same shares. Returns what comes here, by rank: [ranks, shares[rank], ...], on the CPU.
        """
        shape, own = rows.shape[1:], shares[self.rank]
        width = rows.element_size() * shape.numel()
        out = torch.empty(self.size * own * width, dtype=torch.uint8, device=self.device)
        if sum(shares) * width:
            mine = rows.contiguous().reshape(-1).view(torch.uint8).to(self.device)
            self.sent += mine.numel() - own * width
            with self._contact():
                dist.all_to_all_single(
                    out, mine, [own * width] * self.size, [share * width for share in shares], group=self.group
                )
        return out.cpu().view(rows.dtype).view(self.size, own, *shape)

    @contextmanager
    def _contact(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        except RuntimeError as error:  # torch's DistBackendError among them
            pulse = getattr(self, "_pulse", None)
            lost = pulse.lost() if pulse else None
            raise RankError(f"{self.name}: {_lost_words(lost, self.size)}; {self.where}") from error
        finally:
            self.seconds += time.perf_counter() - begun


def _brief(value: Any) -> Any:
    """What stands for a value between ranks and in messages: few row numbers themselves, of many a digest."""
    if not isinstance(value, Tensor):
        return value
    if len(value) <= _SHOWN:
        return value.tolist()
    digest = hashlib.blake2b(value.cpu().numpy().tobytes(), digest_size=8).hexdigest()
    return f"{len(value):,} rows from {int(value[0])} to {int(value[-1])} (digest {digest})"


def _lost_words(lost: list[int] | None, size: int) -> str:
    if lost is None:
        return f"other ranks of {size} no longer answer, and the store that would say which cannot be reached"
    if not lost:
        return f"an exchange with the other ranks of {size} has failed, though all live: the network, or a timeout"
    who = f"ranks {', '.join(map(str, lost))} of {size} have" if len(lost) > 1 else f"rank {lost[0]} of {size} has"
    return f"{who} died or cannot be reached"
