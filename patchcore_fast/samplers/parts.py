"""What each part of a selection took: seconds and peak memory, for a sampler's report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..memory import PeakMemory


class Parts:
    """Writes into report["seconds"] and report["memory"], part by part.

    Memory is the peak in bytes while the part runs: on the CPU what the whole process holds (`memory.PeakMemory`), on a
    CUDA device torch.cuda.max_memory_allocated, which is reset for it.
    """

    def __init__(self, report: dict[str, Any], device: torch.device) -> None:
        self.report, self.device = report, device
        report |= {"seconds": {}, "memory": {}}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """The block is this part; on CUDA parts within it reset its peak."""
        since, cuda = time.perf_counter(), self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        with PeakMemory() as watched:
            yield
        if cuda:
            torch.cuda.synchronize(self.device)
        self.report["seconds"][part] = time.perf_counter() - since
        self.report["memory"][part] = torch.cuda.max_memory_allocated(self.device) if cuda else watched.peak
