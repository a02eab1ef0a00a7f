"""A bank packed once for the native engine, with short rows that exclude most of it (csrc/cpu/prepared.h)."""

from __future__ import annotations

import threading
from dataclasses import astuple

import torch
from torch import Tensor

from ..short_rows import leading_directions, slack_of
from ..surroundings import engine_threads
from .base import Work
from .native_library import native
from .native_rows import addressable, describe, look_over, search

# Directions of short rows: with the rest whole steps of a tile's depth.
_COUNTS = (15, 31, 63)
_MOST = 127  # of longer rows, and five eighths of the columns
_PACKED = 1 << 26  # values of a bank that is held packed
_ROWS, _QUERIES = 2048, 2048  # bank rows and queries from which short rows can pay


class NativePrepared:
    """See base.PreparedRows."""

    def __init__(self, bank: Tensor, prune: str) -> None:
        threads = engine_threads()
        self._bank = addressable(bank)  # the engine works in the memory of this tensor
        # Queries may be longer than any bank row.
        (look,) = look_over("prepare", threads, room=2.0, integers=True, bank=self._bank)
        self._frame = torch.tensor(look.centre, dtype=torch.float64), look.scale, look.step
        self._prepared = native().Prepared(describe(self._bank), look)
        self._prune, self.columns, self.work = prune, 0, Work()
        if self._bank.numel() <= _PACKED:
            self._prepared.pack(threads)
        # Short rows take as long as some searches: they are made when that many have been.
        few = prune == "auto" and self._bank.shape[0] < _ROWS
        self._wait = None if prune == "none" or few else 0 if prune == "partial" else _QUERIES
        self._lock = threading.Lock()
        if self._wait == 0:
            self._shorten(threads)

    def _shorten(self, threads: int) -> None:
        self._wait = None
        centre, scale, step = self._frame
        most = min(_MOST, self._bank.shape[1] * 5 // 128 * 16 - 1)
        counts = tuple(c for c in _COUNTS if (c + 1) % step == 0)
        made = leading_directions(self._bank, centre, scale, counts, most, self._prune == "partial")
        if made is None:
            return
        directions, few = made
        slack = astuple(slack_of(directions[:, :few])), astuple(slack_of(directions))
        self._prepared.shorten(directions.data_ptr(), few, directions.shape[1], *slack, threads)
        self.columns = few + 1

    @property
    def nbytes(self) -> int:
        """Held beside the bank."""
        return self._prepared.bytes

    def knn(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See base.PreparedRows."""
        query, threads = addressable(query), engine_threads()
        with self._lock:
            self.work.pairs += query.shape[0] * self._bank.shape[0]
            if self._wait is not None and self.work.pairs >= self._wait * self._bank.shape[0]:
                self._shorten(threads)
        look = self._prepared.look(describe(query), threads)
        if not look.fits:  # too long for the frame of the bank, or not finite, which is told there
            self.work.full += query.shape[0] * self._bank.shape[0]
            return search(query, self._bank, k)
        squared = torch.empty(query.shape[0], k, dtype=torch.float64, device="cpu")
        rows = torch.empty(query.shape[0], k, dtype=torch.int64, device="cpu")
        full, short, _, settled = self._prepared.knn(
            describe(query), look, k, self._prune, threads, squared.data_ptr(), rows.data_ptr()
        )
        self.work.full += full
        self.work.short += short
        self.work.settled += settled
        return squared, rows
