"""A bank packed once for the native engine, with short rows that exclude most of it (csrc/cpu/prepared.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..short_rows import ShortRows, short_rows
from ..surroundings import engine_threads
from .base import Work
from .native_library import native
from .native_rows import addressable, describe, look_over, search

_COUNTS = {2: (31, 63), 4: (15, 31, 63)}  # directions by bytes of a packed value: with the rest, a tile's steps of depth


class NativePrepared:
    """See base.PreparedRows."""

    def __init__(self, bank: Tensor, prune: str) -> None:
        threads = engine_threads()
        self._bank = addressable(bank)  # the engine works in the memory of this tensor
        # Queries may be longer than any bank row.
        (look,) = look_over("prepare", threads, room=2.0, bank=self._bank)
        isa, centre, scale, packed = look.isa, look.centre, look.scale, look.packs_float32
        self._prepared = native().Prepared(describe(self._bank), look)
        self._short: ShortRows | None = None
        self._prune, self.columns, self.work = prune, 0, Work()
        if prune != "none":
            place = torch.tensor(centre, dtype=torch.float64) if centre else None
            self._shorten(short_rows(self._bank, place, scale, _COUNTS[4 if packed else 2]), isa, threads)
        if self._short is None:
            self._prepared.pack(threads)

    def _shorten(self, made: ShortRows | None, isa: str, threads: int) -> None:
        if made is None:
            return
        rows = made.rows(self._bank)
        look = native().Look(describe(rows), isa, 0, 1.0, threads)
        if look.fits:
            self._prepared.shorten(describe(rows), look, made.share, made.tiny, threads)
            self._short, self.columns = made, made.width

    @property
    def nbytes(self) -> int:
        """Held beside the bank."""
        own = 0 if self._short is None else self._short.directions.nbytes
        return self._prepared.bytes + own

    def knn(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See base.PreparedRows."""
        query, threads = addressable(query), engine_threads()
        look = self._prepared.look(describe(query), threads)
        short, of_short = query, None
        if look.fits and self._short is not None:
            short = self._short.rows(query)
            of_short = self._prepared.look_short(describe(short), threads)
        if not look.fits or (of_short is not None and not of_short.fits):
            # Too long for the frame of the bank, or not finite, which is told here.
            self.work.full += query.shape[0] * self._bank.shape[0]
            return search(query, self._bank, k)
        squared = torch.empty(query.shape[0], k, dtype=torch.float64, device="cpu")
        rows = torch.empty(query.shape[0], k, dtype=torch.int64, device="cpu")
        full, along, settled = self._prepared.knn(
            describe(query), look, describe(short), of_short, k, self._prune, threads, squared.data_ptr(),
            rows.data_ptr(),
        )  # fmt: skip
        self.work.full += full
        self.work.short += along
        self.work.settled += settled
        return squared, rows
